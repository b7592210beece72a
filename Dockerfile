# resight on a CPU. Build: docker build -t resight .
# Run the demo:     docker run --rm -v "$PWD/runs:/work/runs" resight
# Train on a folder: docker run --rm -v "$PWD:/work" resight train photos --data /work/photos
FROM python:3.13-slim

WORKDIR /src
COPY constraints.txt pyproject.toml hatch_build.py README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir -c constraints.txt .

RUN useradd --create-home user && mkdir /work && chown user /work
USER user
WORKDIR /work
ENTRYPOINT ["resight"]
CMD ["demo"]
