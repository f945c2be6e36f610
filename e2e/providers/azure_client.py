"""Calls a stub of Azure Key Vault with the client of azure-keyvault-keys: python3 azure_client.py URL CERTIFICATE."""

import os
import sys
import time

from azure.core.credentials import AccessToken
from azure.keyvault.keys import KeyClient
from azure.keyvault.keys.crypto import CryptographyClient, EncryptionAlgorithm, KeyWrapAlgorithm, SignatureAlgorithm


class Credential:
    def get_token(self, *scopes, **kwargs):
        return AccessToken("token", int(time.time()) + 3600)


url, certificate = sys.argv[1:]
options = {"connection_verify": certificate, "verify_challenge_resource": False}
keys = KeyClient(url, Credential(), **options)


def client(name):
    return CryptographyClient(keys.get_key(name), Credential(), **options)


secret, context = os.urandom(32), b"clinic"

aes = client("aes")
sealed = aes.encrypt(EncryptionAlgorithm.a256_gcm, secret, additional_authenticated_data=context)
opened = aes.decrypt(sealed.algorithm, sealed.ciphertext, iv=sealed.iv, authentication_tag=sealed.tag, additional_authenticated_data=context)
assert opened.plaintext == secret
try:
    aes.decrypt(sealed.algorithm, sealed.ciphertext, iv=sealed.iv, authentication_tag=sealed.tag, additional_authenticated_data=b"billing")
    raise SystemExit("it opens under other associated data")
except Exception as e:
    assert "BadParameter" in str(e), e

# This client wraps with the public key, and verifies signatures, by itself.
rsa = client("rsa")
wrapped = rsa.wrap_key(KeyWrapAlgorithm.rsa_oaep_256, secret)
assert rsa.unwrap_key(wrapped.algorithm, wrapped.encrypted_key).key == secret

vouch = client("vouch")
signature = vouch.sign(SignatureAlgorithm.es256, secret).signature
assert vouch.verify(SignatureAlgorithm.es256, secret, signature).is_valid
assert not vouch.verify(SignatureAlgorithm.es256, bytes(32), signature).is_valid
print("azure: the client accepts what the stub answers")
