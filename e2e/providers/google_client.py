"""Calls a stub of Google Cloud KMS with the client of google-cloud-kms: python3 google_client.py ADDRESS KEY."""

import os
import sys

import google_crc32c
import grpc
from google.api_core.exceptions import InvalidArgument
from google.cloud import kms_v1
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcTransport

address, key = sys.argv[1:]
client = kms_v1.KeyManagementServiceClient(transport=KeyManagementServiceGrpcTransport(channel=grpc.insecure_channel(address)))
secret, context = os.urandom(32), b"clinic"


def checksum(b):
    return google_crc32c.value(b)


described = client.get_crypto_key(name=key)
assert described.purpose == kms_v1.CryptoKey.CryptoKeyPurpose.ENCRYPT_DECRYPT
assert described.primary.state == kms_v1.CryptoKeyVersion.CryptoKeyVersionState.ENABLED

sealed = client.encrypt(request={
    "name": key, "plaintext": secret, "plaintext_crc32c": checksum(secret),
    "additional_authenticated_data": context, "additional_authenticated_data_crc32c": checksum(context)})
assert sealed.verified_plaintext_crc32c and sealed.verified_additional_authenticated_data_crc32c
assert sealed.ciphertext_crc32c == checksum(sealed.ciphertext)


def opened(context):
    return client.decrypt(request={
        "name": key, "ciphertext": sealed.ciphertext, "ciphertext_crc32c": checksum(sealed.ciphertext),
        "additional_authenticated_data": context, "additional_authenticated_data_crc32c": checksum(context)})


plain = opened(context)
assert plain.plaintext == secret and plain.plaintext_crc32c == checksum(secret)
try:
    opened(b"billing")
    raise SystemExit("it opens under other associated data")
except InvalidArgument:
    pass
print("google: the client accepts what the stub answers")
