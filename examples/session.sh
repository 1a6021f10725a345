#!/bin/sh
# The service by hand, from its reflection alone: with grpcurl where it is installed, else with `buf curl`.
#
#     TARGET=127.0.0.1:50051 sh examples/session.sh
set -eu
TARGET=${TARGET:-127.0.0.1:50051}
SERVICE=paceline.v1.GenerationService

if command -v grpcurl >/dev/null; then
    list() { grpcurl -plaintext "$TARGET" list "$SERVICE"; }
    call() { grpcurl -plaintext -max-time 30 -d "$2" "$TARGET" "$1"; }
else
    list() { buf curl --protocol grpc --http2-prior-knowledge --list-methods "http://$TARGET"; }
    call() { buf curl --protocol grpc --http2-prior-knowledge -d "$2" "http://$TARGET/$1"; }
fi

list
call grpc.health.v1.Health/Check '{}'
call "$SERVICE/GetModelInfo" '{}'
call "$SERVICE/Tokenize" '{"text": "The sky is", "details": true}'
call "$SERVICE/Generate" '{"generation": {"text": "The sky is", "stopping": {"max_tokens": 8}}}'
call "$SERVICE/GenerateStream" '{"generation": {"text": "One, two,", "stopping": {"max_tokens": 4}}}'
call "$SERVICE/GenerateBatch" '{"generations": [
    {"text": "A,", "stopping": {"max_tokens": 8}},
    {"text": "B,", "stopping": {"max_tokens": 8}, "sampling": {"temperature": 0}}]}'
call "$SERVICE/GetLoad" '{}'
