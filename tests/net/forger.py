"""A side of TLS 1.3 that makes records OpenSSL would never send."""

import hashlib
import hmac
import ssl
import struct
import tempfile

import trio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_DATA, _HANDSHAKE, _ALERT = 23, 22, 21


class Forger:
    """The dialling side, by OpenSSL until keys are agreed on, by hand from then on."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._secret = b""

    async def do_handshake(self) -> None:
        """Agree on keys, and get hold of ours."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with tempfile.NamedTemporaryFile() as keys:
            context.keylog_filename = keys.name
            tls = context.wrap_bio(incoming, outgoing)
            agreed = False
            while not agreed:
                try:
                    tls.do_handshake()
                    agreed = True
                except ssl.SSLWantReadError:
                    pass
                await self.stream.send_all(outgoing.read())
                if not agreed:
                    incoming.write(await self.stream.receive_some())
            lines = [line.split() for line in keys.read().decode().splitlines()]
        [secret] = [line[2] for line in lines if line[0] == "CLIENT_TRAFFIC_SECRET_0"]
        self._use(bytes.fromhex(secret))

    def data(self, data: bytes) -> bytes:
        """Return a record with data."""
        return self._record(data, _DATA)

    def goodbye(self) -> bytes:
        """Return the record that ends the data."""
        return self._record(b"\x01\x00", _ALERT)

    def new_key(self, *, asks: bool) -> bytes:
        """Return a record by which our key changes; it may ask the other side for the same."""
        record = self._record(b"\x18\0\0\1" + bytes([asks]), _HANDSHAKE)
        self._use(self._expand(b"traffic upd", len(self._secret)))
        return record

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._cipher = AESGCM(self._expand(b"key", 32))
        # Records are counted anew with each key.
        self._number = 0
        self._nonce = int.from_bytes(self._expand(b"iv", 12), "big")

    def _record(self, content: bytes, kind: int) -> bytes:
        inner = content + bytes([kind])
        header = b"\x17\x03\x03" + struct.pack(">H", len(inner) + 16)
        nonce = (self._nonce ^ self._number).to_bytes(12, "big")
        self._number += 1
        return header + self._cipher.encrypt(nonce, inner, header)

    def _expand(self, label: bytes, length: int) -> bytes:
        label = b"tls13 " + label
        info = struct.pack(">HB", length, len(label)) + label + b"\0\1"
        return hmac.new(self._secret, info, hashlib.sha384).digest()[:length]
