"""Makes vectors.json with code that is not this product's: payloads as other tools write them.

    python3 -m venv v && v/bin/pip install temporalio==1.35.0 temporalcodec==0.6.1 cryptography cramjam pyyaml boto3 'moto[kms]'
    v/bin/python make_vectors.py > vectors.json

Each vector names who wrote which part of it. Nonces and keys are random, so every run gives other bytes; those in the
repository are frozen, and have to open in every later version.
"""
import asyncio, base64, gzip, json, os, zlib

import boto3, cramjam
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from moto import mock_aws
from temporalcodec.encryption import EncryptionCodec
from temporalio.api.common.v1 import Payload

plain = Payload(metadata={"encoding": b"json/plain"}, data=b'{"patient":"Ada Lovelace","codes":["E11.9","I10"]}')
empty = Payload(metadata={"encoding": b"binary/null"})
vectors = []


def b64(b):
    return base64.b64encode(b).decode()


def add(name, made_by, fmt, payload, opened=plain, **more):
    vectors.append({"name": name, "made_by": made_by, "formats": fmt, "payload": b64(payload.SerializeToString()),
                    "opens_to": b64(opened.SerializeToString()), **more})


def gcm(key, body, aad=None):
    nonce = os.urandom(12)
    return nonce + AESGCM(key).encrypt(nonce, body, aad)


text_key = "test-key-test-key-test-key-test!"
codec = EncryptionCodec([{"id": "test", "key": text_key}])
keys = {"test": b64(text_key.encode())}
by_temporalcodec = "temporalcodec 0.6.1 (PyPI), EncryptionCodec.encode"
for name, p in (("samples", plain), ("samples, a null", empty)):
    add(name, by_temporalcodec, ["samples"], asyncio.run(codec.encode([p]))[0], p, keys=keys)

java = Payload(metadata={"encoding": b"binary/encrypted", "encryption-cipher": b"AES/GCM/NoPadding", "encryption-key-id": b"test"},
               data=gcm(text_key.encode(), plain.SerializeToString()))
add("samples, as in Java", "metadata as in temporalio/samples-java's CryptCodec; AES-GCM of PyPI's cryptography", ["samples"], java, keys=keys)
for bits in (128, 192):
    key = os.urandom(bits // 8)
    p = Payload(metadata={"encoding": b"binary/encrypted", "encryption-key-id": b""}, data=gcm(key, plain.SerializeToString()))
    add(f"samples, AES-{bits}, no key id", "metadata as in temporalio/samples-go's encryption; AES-GCM of PyPI's cryptography",
        ["samples"], p, keys={"": b64(key)})

compressed = {
    "zlib": ("zlib of Python", lambda b: zlib.compress(b)),
    "gzip": ("gzip of Python", lambda b: gzip.compress(b)),
    "snappy": ("cramjam (PyPI), one block, as in temporalio/samples-go's snappycompress", lambda b: bytes(cramjam.snappy.compress_raw(b))),
    "snappy, framed": ("cramjam (PyPI), a stream, as Python codecs write it", lambda b: bytes(cramjam.snappy.compress(b))),
}
for name, (made_by, f) in compressed.items():
    fmt = name.split(",")[0]
    packed = Payload(metadata={"encoding": ("binary/" + fmt).encode()}, data=f(plain.SerializeToString()))
    add(name, made_by, [fmt], packed)
    inside = asyncio.run(codec.encode([packed]))[0]
    add(name + " within samples", made_by + "; " + by_temporalcodec, [fmt, "samples"], inside, keys=keys)
    sealed = asyncio.run(codec.encode([plain]))[0]
    outside = Payload(metadata={"encoding": ("binary/" + fmt).encode()}, data=f(sealed.SerializeToString()))
    add(name + " around samples", made_by + "; " + by_temporalcodec, [fmt, "samples"], outside, keys=keys)

with mock_aws():
    kms = boto3.client("kms", region_name="eu-central-1", aws_access_key_id="test", aws_secret_access_key="test")
    arn = kms.create_key()["KeyMetadata"]["Arn"]
    key_id, namespace = "alias/a&b", "clinic"  # & is what Go's JSON escapes
    context = {"purpose": "encryption-key-auth", "encryptionKeyID": key_id, "namespace": namespace}
    made = kms.generate_data_key(KeyId=arn, KeySpec="AES_256", EncryptionContext=context)
    aad = json.dumps({"purpose": "payload-auth", "encryptionKeyID": key_id, "namespace": namespace}, sort_keys=True,
                     separators=(",", ":")).replace("&", "\\u0026").encode()
    p = Payload(metadata={"encoding": b"binary/encrypted", "encryption-key-id": key_id.encode(), "encrypted-data-key": made["CiphertextBlob"]},
                data=gcm(made["Plaintext"], plain.SerializeToString(), aad))
    add("temporal-sa", "layout as in temporal-sa/temporal-cloud-proxy's codec and crypto; data key of moto (PyPI), AES-GCM of PyPI's cryptography",
        ["temporal-sa"], p, namespace=namespace,
        unwraps=[{"wrapped": b64(made["CiphertextBlob"]), "context": context, "data_key": b64(made["Plaintext"])}])

    dek = os.urandom(32)
    wrapped = kms.encrypt(KeyId=arn, Plaintext=dek)["CiphertextBlob"]
    p = Payload(metadata={"encoding": b"binary/encrypted", "encryption-key-id": b"awskms:///alias/temporal?region=eu-central-1",
                          "encryption-dek": base64.b64encode(wrapped)}, data=gcm(dek, plain.SerializeToString()))
    add("temporal-proxy", "layout as in temporalio/temporal-proxy's pkg/codec and pkg/crypto; wrapped by moto (PyPI), AES-GCM of PyPI's cryptography",
        ["temporal-proxy"], p, unwraps=[{"wrapped": b64(wrapped), "context": None, "data_key": b64(dek)}])

print(json.dumps(vectors, indent=1))
