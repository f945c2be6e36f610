"""A key plug-in for temporal-seal: keys in a folder, one file each, over gRPC.

It shows what a plug-in has to do, and keeps its keys as badly as any program that has them in memory: write yours in
front of the service that keeps keys at your site. It needs grpcio, grpcio-tools and cryptography from PyPI.

    python server.py --keys keys --listen unix:/run/temporal-seal/keys.sock
    python server.py --keys keys --listen 127.0.0.1:7450 --certificate tls.crt --private-key tls.key --tokens tokens

A key is a file, <folder>/<name>; `--new <name>` makes it, or rotates it by 32 more bytes: the last 32 wrap, and all
unwrap. EncryptionService, which names no key, uses the one of --default. A file that was emptied is a key that was destroyed.
"""

import argparse
import hmac
import os
import sys
from concurrent import futures
from pathlib import Path

import grpc
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

DEFINITIONS = Path(__file__).resolve().parents[2] / "internal/crypto/plugin/pluginpb"
sys.path.insert(0, str(DEFINITIONS))
# The code for both definitions is generated as this is imported.
encryption, encryption_services = grpc.protos_and_services("encryption.proto")
key, key_services = grpc.protos_and_services("key.proto")


class Keys:
    """AES-256-GCM under keys from a folder. What is wrapped is nonce, ciphertext and tag."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def _versions(self, name, call):
        path = self.folder / name
        if not name or path.parent != self.folder or not path.is_file():
            call.abort(grpc.StatusCode.NOT_FOUND, "there is no such key")
        secret = path.read_bytes()
        if not secret or len(secret) % 32:
            call.abort(grpc.StatusCode.FAILED_PRECONDITION, "the key was destroyed")
        return [AESGCM(secret[i : i + 32]) for i in range(0, len(secret), 32)]

    def wrap(self, name, plaintext, context, call):
        nonce = os.urandom(12)
        return nonce + self._versions(name, call)[-1].encrypt(nonce, plaintext, context)

    def unwrap(self, name, wrapped, context, call):
        for version in reversed(self._versions(name, call)):
            try:
                return version.decrypt(wrapped[:12], wrapped[12:], context)
            except (InvalidTag, ValueError):
                continue
        # Not INTERNAL: the proxy would take that for an outage, and wait.
        call.abort(grpc.StatusCode.INVALID_ARGUMENT, "it was not wrapped with this key and this context, or was changed")


class EncryptionService(encryption_services.EncryptionServiceServicer):
    def __init__(self, keys, name):
        self.keys, self.name = keys, name

    def Encrypt(self, request, call):
        return encryption.EncryptResponse(ciphertext=self.keys.wrap(self.name, request.plaintext, b"", call))

    def Decrypt(self, request, call):
        return encryption.DecryptResponse(plaintext=self.keys.unwrap(self.name, request.ciphertext, b"", call))


class KeyService(key_services.KeyServiceServicer):
    def __init__(self, keys):
        self.keys = keys

    def Wrap(self, request, call):
        return key.WrapResponse(wrapped=self.keys.wrap(request.key, request.plaintext, self.context(request), call))

    def Unwrap(self, request, call):
        return key.UnwrapResponse(plaintext=self.keys.unwrap(request.key, request.wrapped, self.context(request), call))

    @staticmethod
    def context(request):
        # Each text after its length, so that two contexts never look alike.
        texts = (request.context.namespace.encode(), request.context.key_name.encode())
        return b"".join(len(text).to_bytes(4, "big") + text for text in texts)


class Tokens(grpc.ServerInterceptor):
    """Lets calls pass that carry a token of a file, which has one in each line and is read for each call."""

    def __init__(self, path):
        self.path = Path(path)
        self.refuse = grpc.unary_unary_rpc_method_handler(
            lambda _, call: call.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or unknown")
        )

    def intercept_service(self, continuation, details):
        given = dict(details.invocation_metadata).get("authorization", "")
        known = ["Bearer " + line for line in self.path.read_text().split()]
        if any(hmac.compare_digest(given.encode(), token.encode()) for token in known):
            return continuation(details)
        return self.refuse


def serve(options, interceptors=()):
    if options.tokens:
        interceptors = [Tokens(options.tokens), *interceptors]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), interceptors=interceptors)
    keys = Keys(options.keys)
    encryption_services.add_EncryptionServiceServicer_to_server(EncryptionService(keys, options.default), server)
    key_services.add_KeyServiceServicer_to_server(KeyService(keys), server)
    if options.certificate:
        pair = (Path(options.private_key).read_bytes(), Path(options.certificate).read_bytes())
        server.add_secure_port(options.listen, grpc.ssl_server_credentials([pair]))
    elif options.listen.startswith("unix:"):
        os.umask(0o077)  # nobody else may connect
        server.add_insecure_port(options.listen)
    else:
        sys.exit("--certificate and --private-key are required for an address of the network")
    server.start()
    print("listening on", options.listen, flush=True)
    server.wait_for_termination()


def main(interceptors=()):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", default="keys", help="folder of the keys")
    parser.add_argument("--default", default="default", help="key of EncryptionService")
    parser.add_argument("--new", metavar="NAME", help="make or rotate a key, and end")
    parser.add_argument("--listen", default="unix:/tmp/keys.sock", help="unix:<path>, or <host>:<port>")
    parser.add_argument("--certificate", help="file in PEM")
    parser.add_argument("--private-key", help="file in PEM")
    parser.add_argument("--tokens", help="file with the tokens that callers may have")
    options = parser.parse_args()
    if options.new:
        folder = Path(options.keys)
        folder.mkdir(mode=0o700, exist_ok=True)
        with open(os.open(folder / options.new, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
            file.write(os.urandom(32))
        return
    serve(options, interceptors)


if __name__ == "__main__":
    main()
