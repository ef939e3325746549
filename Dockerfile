# The demo from nothing but this folder:
#   docker build -t l0rnn . && docker run --rm -v "$PWD/out:/l0rnn/out" l0rnn
# The table and the picture are then in out/demo.
FROM python:3.12-slim

RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /l0rnn

# what changes seldom goes first, so that a change of the code installs nothing again
COPY pyproject.toml constraints.txt Makefile README.md LICENSE ./
COPY l0rnn ./l0rnn
RUN make venv
COPY . .
CMD ["make", "demo"]
