#!/usr/bin/env bash
# Generates the stubs and their types beside each .proto. Needs the development requirements.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
PATH="$(dirname "$(command -v "$python")"):$PATH" "$python" -m grpc_tools.protoc -I . \
    --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. \
    protos/*/v1/*.proto
# A .proto without a service has empty service stubs: not worth a file.
for proto in protos/*/v1/*.proto; do
    grep -q '^service ' "$proto" || rm -f "${proto%.proto}_pb2_grpc.py" "${proto%.proto}_pb2_grpc.pyi"
done
