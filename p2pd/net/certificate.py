"""The TLS certificate of one process: self-signed, made at start, never kept on disk.

It authenticates nobody: the handshake inside TLS does, by signing the certificate's hash.
"""

import hashlib
import os
import ssl
import tempfile
import traceback

import attrs

from p2pd.errors import StartError


@attrs.frozen
class TlsContexts:
    """TLS 1.3 contexts of both sides, and the SHA-256 of our certificate."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    certificate: bytes


def make_tls_contexts() -> TlsContexts:
    """Mint a key and a certificate and load them into fresh contexts.

    Forks, so it must be called before threads are started. Raises `StartError`.
    """
    key_and_certificate = _mint_in_child()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    # Without tickets the handshake is one flight shorter, and nothing is ever resumed.
    server.num_tickets = 0
    # The ssl module loads keys from files only; this one is gone before anybody connects.
    try:
        with tempfile.NamedTemporaryFile() as file:
            file.write(key_and_certificate)
            file.flush()
            server.load_cert_chain(file.name)
    except OSError as error:
        raise StartError(
            f"can't keep the TLS key for a moment in a temporary file: {error.strerror}; "
            "name a directory that this user may write to in TMPDIR"
        ) from None
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    text = key_and_certificate.decode()
    der = ssl.PEM_cert_to_DER_cert(text[text.index(ssl.PEM_HEADER) :])
    return TlsContexts(server, client, hashlib.sha256(der).digest())


def _mint_in_child() -> bytes:
    """Mint in a child process: here it would leave 2 MiB of memory in use."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            from p2pd.net.minting import mint_certificate  # noqa: PLC0415 - in the child only

            os.write(writer, mint_certificate())
            os._exit(0)
        except BaseException:  # noqa: BLE001 - nothing of the parent may go on in the child
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        minted = stream.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise StartError("can't mint a TLS certificate: the process that was to do it has failed")
    return minted
