"""HTTP/2 connection that repeats one gRPC request, with little work per request.

gRPC's own client takes more CPU time than the server, and would be the limit of a measurement. This one sends prepared
frames, and reads only the status of each response. Formats: RFC 9113 (frames) and RFC 7541 (header fields).
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections import deque
from collections.abc import Iterator, Sequence

from kanserve.errors import KanserveError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 32  # flags
TABLE_SIZE, STREAMS, WINDOW = 1, 3, 4  # settings
HEAD = struct.Struct(">IBI")  # length and type, flags, stream
FRAME, FIRST_WINDOW, LARGEST_WINDOW = 16384, 65535, 2**31 - 1
LAST_STREAM = 2**31 - 2
READ = 2**18  # bytes
STATUS_NAMES = (b"grpc-status", bytes.fromhex("9acac8b21234da8f"))  # the second: in the Huffman code
DIGITS = {0: "0", 1: "1", 2: "2", **{25 + at: str(3 + at) for at in range(7)}}  # Huffman codes of 5 and 6 bits
SHORT_CODES = 3  # codes of 5 bits
LOST = -1  # status of a request whose stream or connection broke
FORGOTTEN = -1  # number of a request whose response is ignored


class CapacityError(KanserveError):
    """Failure of a capacity measurement, such as a server that does not speak HTTP/2."""


def literal(name: bytes, value: bytes) -> bytes:
    """A header field with a new name, outside the dynamic table."""
    return b"\0" + _string(name) + _string(value)


def head(path: str, authority: str, *, secure: bool, fields: Sequence[tuple[str, str]] = ()) -> bytes:
    """Header block of a gRPC request. `fields`: metadata."""
    block = b"\x83" + (b"\x87" if secure else b"\x86") + b"\x04" + _string(path.encode())
    block += b"\x01" + _string(authority.encode())
    common = (("content-type", "application/grpc"), ("te", "trailers"))
    return block + b"".join(literal(name.encode(), value.encode()) for name, value in (*common, *fields))


def _string(data: bytes) -> bytes:
    """A string without the Huffman code, after its length with a prefix of 7 bits (RFC 7541, 5.1 and 5.2)."""
    if len(data) < 127:
        return bytes([len(data)]) + data
    out, rest = bytearray([127]), len(data) - 127
    while rest >= 128:
        out.append(rest % 128 + 128)
        rest //= 128
    return bytes([*out, rest]) + data


def _read_integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """The number at a position, and the position after it."""
    full = (1 << bits) - 1
    value, at, shift = block[at] & full, at + 1, 0
    if value < full:
        return value, at
    while True:
        byte, at = block[at], at + 1
        value += (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def grpc_status(block: bytes) -> int | None:
    """Status in the header block of a peer without a dynamic table; None if the block has none."""
    at = 0
    while at < len(block):
        first = block[at]
        if first >= 128:  # a field of the static table
            _, at = _read_integer(block, at, 7)
            continue
        if first & 0xE0 == 0x20:  # a size of the dynamic table
            _, at = _read_integer(block, at, 5)
            continue
        index, at = _read_integer(block, at, 6 if first >= 64 else 4)
        name, at = _text(block, at) if index == 0 else ((b"", False), at)
        (value, coded), at = _text(block, at)
        if name[0] in STATUS_NAMES:
            return int(_digits(value) if coded else value)
    return None


def _text(block: bytes, at: int) -> tuple[tuple[bytes, bool], int]:
    """The string at a position, and whether it is in the Huffman code; the position after it."""
    coded = block[at] >= 128
    size, at = _read_integer(block, at, 7)
    return (block[at : at + size], coded), at + size


def _digits(data: bytes) -> str:
    """Digits in the Huffman code."""
    bits, size, text = int.from_bytes(data, "big"), 8 * len(data), ""
    while size >= 5:
        code, length = bits >> (size - 5) & 31, 5
        if code >= SHORT_CODES:
            if size < 6:
                break
            code, length = bits >> (size - 6) & 63, 6
        if code not in DIGITS:
            break
        text, size = text + DIGITS[code], size - length
    return text


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


class Connection:
    """Connection to HOST:PORT that sends one request again and again.

    block    header block of the request
    message  the message without its gRPC prefix
    tls      context of TLS, or None
    """

    def __init__(self, place: str, block: bytes, message: bytes, tls: ssl.SSLContext | None, name: str = "") -> None:
        host, _, port = place.rpartition(":")
        host = host.strip("[]")
        plain = socket.create_connection((host, int(port)), timeout=10)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket: socket.socket = tls.wrap_socket(plain, server_hostname=name or host) if tls else plain
        self.socket.setblocking(False)
        body = b"\0" + len(message).to_bytes(4, "big") + message
        self._body, self._block = body, block
        self._begin = frame(HEADERS, END_HEADERS, 0, block)[:5]
        self._middle = block + frame(DATA, END_STREAM, 0, body)[:5] if len(body) <= FRAME else b""
        self._next, self._numbers = 1, dict[int, int]()
        self._window, self._stream_window, self._most = FIRST_WINDOW, FIRST_WINDOW, 2**31
        self._partial: deque[list[int]] = deque()  # stream, bytes sent, window of the stream
        self._input, self._output = b"", bytearray()
        self._unread = 0  # bytes received since the last WINDOW_UPDATE
        self._codes: dict[bytes, int | None] = {}
        self.ready = self.closing = self.broken = False  # ready: the settings of the server have arrived
        settings = b"".join(struct.pack(">HI", *pair) for pair in ((TABLE_SIZE, 0), (WINDOW, LARGEST_WINDOW)))
        self._output += PREFACE + frame(SETTINGS, 0, 0, settings)
        self._output += frame(WINDOW_UPDATE, 0, 0, (LARGEST_WINDOW - FIRST_WINDOW).to_bytes(4, "big"))

    @property
    def pending(self) -> int:
        """Number of requests without a response."""
        return len(self._numbers)

    @property
    def free(self) -> bool:
        """Whether the connection accepts one more request."""
        return self.ready and not self.closing and len(self._numbers) < self._most

    @property
    def writes(self) -> bool:
        """Whether bytes wait to be sent."""
        return bool(self._output)

    def request(self, number: int) -> None:
        """Add a request to the output. Its number is returned with its status."""
        stream, size = self._next, len(self._body)
        self._next += 2
        self.closing = self._next > LAST_STREAM
        self._numbers[stream] = number
        name = stream.to_bytes(4, "big")
        if self._middle and not self._partial and size <= self._window and size <= self._stream_window:
            self._window -= size
            self._output += b"".join((self._begin, name, self._middle, name, self._body))
            return
        self._output += b"".join((self._begin, name, self._block))
        self._partial.append([stream, 0, self._stream_window])
        self._pump()

    def _pump(self) -> None:
        """Add the bodies of requests as far as the windows of the server permit."""
        while self._partial:
            entry = self._partial[0]
            stream, start, window = entry
            size = min(FRAME, len(self._body) - start, self._window, window)
            if size <= 0:
                return
            last = start + size == len(self._body)
            self._output += frame(DATA, END_STREAM if last else 0, stream, self._body[start : start + size])
            self._window -= size
            entry[1], entry[2] = start + size, window - size
            if last:
                self._partial.popleft()

    def send(self) -> None:
        """Write as many bytes as the socket takes."""
        try:
            while self._output:
                del self._output[: self.socket.send(memoryview(bytes(self._output[: 4 * READ])))]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            self.broken = True

    def receive(self) -> list[tuple[int, int]]:
        """Numbers and statuses of the requests that ended, from all bytes that have arrived."""
        done: list[tuple[int, int]] = []
        while not self.broken:
            try:
                data = self.socket.recv(READ)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except OSError:
                data = b""
            self.broken = not data
            self._input += data
            done.extend(self._frames())
            if len(data) < READ and not isinstance(self.socket, ssl.SSLSocket):
                break
        if self.broken:
            done.extend((number, LOST) for number in self._numbers.values())
            self._numbers.clear()
        return done

    def _frames(self) -> Iterator[tuple[int, int]]:
        data, at = self._input, 0
        while len(data) - at >= HEAD.size:
            word, flags, stream = HEAD.unpack_from(data, at)
            end = at + HEAD.size + (word >> 8)
            if len(data) < end:
                break
            kind, start, at = word & 255, at + HEAD.size, end
            if kind == DATA:
                self._unread += end - start
            elif kind == HEADERS:
                status = self._status(data[start:end], flags)
                if flags & END_STREAM and (number := self._numbers.pop(stream, None)) is not None:
                    yield number, LOST if status is None else status
            else:
                yield from self._control(kind, flags, stream, data[start:end])
        self._input = data[at:]
        if self._unread > LARGEST_WINDOW // 2:
            self._output += frame(WINDOW_UPDATE, 0, 0, self._unread.to_bytes(4, "big"))
            self._unread = 0

    def _status(self, block: bytes, flags: int) -> int | None:
        if not flags & END_HEADERS or flags & (PADDED | PRIORITY):
            raise CapacityError(
                "the server sends header frames that the load generator does not read",
                code="load-protocol",
                hint="measure the server without a proxy in between",
            )
        if block not in self._codes:
            if len(self._codes) > READ:
                self._codes.clear()
            self._codes[block] = grpc_status(block)
        return self._codes[block]

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> Iterator[tuple[int, int]]:
        if kind == PING and not flags & ACK:
            self._output += frame(PING, ACK, 0, payload)
        elif kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                self._set(*struct.unpack_from(">HI", payload, at))
            self._output += frame(SETTINGS, ACK, 0)
            self.ready = True
            self._pump()
        elif kind == WINDOW_UPDATE:
            size = int.from_bytes(payload, "big")
            if not stream:
                self._window += size
            for entry in self._partial:
                if entry[0] == stream:
                    entry[2] += size
            self._pump()
        elif kind == GOAWAY:
            self.closing = True
        elif kind == RST_STREAM and stream in self._numbers:
            self._partial = deque(entry for entry in self._partial if entry[0] != stream)
            yield self._numbers.pop(stream), LOST

    def _set(self, name: int, value: int) -> None:
        if name == WINDOW:
            for entry in self._partial:
                entry[2] += value - self._stream_window
            self._stream_window = value
        elif name == STREAMS:
            self._most = value

    def forget(self) -> None:
        """Ignore the responses to all requests in flight."""
        self._numbers = dict.fromkeys(self._numbers, FORGOTTEN)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()
