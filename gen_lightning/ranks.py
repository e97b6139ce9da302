"""Messages between the ranks of a run, apart from the collective operations of torch.distributed.

A collective operation needs the main thread of every rank. These messages reach a rank whatever its main thread does.
"""

import re
import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial

Address = tuple[int, str]
"""The port at which rank 0 listens, and the secret that admits the other ranks."""


def _ignore(rank: int, word: str, *numbers: int) -> None:
    pass


# What gloo, NCCL and the store of torch.distributed write if another process has ended.
_LOST = re.compile(
    r"closed by peer|reset by peer|Broken pipe|Read error|Write error|remote process exited|failed to recv|got 0 bytes",
    re.IGNORECASE,
)


def is_lost_connection(error: BaseException) -> bool:
    """Return whether an exception of torch.distributed says that another rank has ended."""
    return isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None


class Ranks:
    """Connections between rank 0 and each other rank.

    The system closes the connections of a process that dies, so its end is noticed at once.

    Args:
        rank: rank of this process
        world_size: number of ranks
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self.receive: Callable[..., None] = _ignore
        self._peers: dict[socket.socket, int] = {}
        self._texts: dict[socket.socket, str] = {}
        self._listener: socket.socket | None = None
        self._selector: selectors.BaseSelector | None = None
        self._secret = ""

    def listen(self, secret: str, local: bool) -> int:
        """Wait for the other ranks on a free port, and return it.

        Args:
            secret: text that the other ranks show
            local: whether all ranks are on this machine
        """
        self._secret = secret
        if local:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=self.world_size)
        elif socket.has_dualstack_ipv6():
            self._listener = socket.create_server(
                ("", 0), family=socket.AF_INET6, backlog=self.world_size, dualstack_ipv6=True
            )
        else:
            self._listener = socket.create_server(("", 0), backlog=self.world_size)
        return int(self._listener.getsockname()[1])

    def connect(self, host: str, port: int, secret: str) -> None:
        """Connect to rank 0."""
        peer = socket.create_connection((host, port), timeout=60)
        peer.settimeout(None)
        _notice_lost_machines(peer)
        peer.sendall(f"hello {secret} {self.rank}\n".encode())
        self._peers[peer], self._texts[peer] = 0, ""

    def register(self, selector: selectors.BaseSelector) -> None:
        """Receive connections and messages through a selector, whose data are functions to call."""
        self._selector = selector
        for peer in self._peers:
            selector.register(peer, selectors.EVENT_READ, partial(self._read, peer))
        # Last, because the selector's thread then adds peers by itself.
        if self._listener:
            selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def send(self, word: str, *numbers: int) -> None:
        """Send a message to rank 0, or from rank 0 to all ranks; a peer that has ended does not receive it."""
        message = f"{' '.join(map(str, (word, *numbers)))}\n".encode()
        for peer in list(self._peers):
            with suppress(OSError):
                peer.sendall(message)

    def close(self) -> None:
        """Close all connections."""
        for one in [*self._texts, *([self._listener] if self._listener else [])]:
            one.close()

    def _accept(self) -> None:
        assert self._listener is not None
        assert self._selector is not None
        with suppress(OSError):
            peer, _ = self._listener.accept()
            _notice_lost_machines(peer)
            self._texts[peer] = ""
            self._selector.register(peer, selectors.EVENT_READ, partial(self._read, peer))

    def _read(self, peer: socket.socket) -> None:
        data = b""
        with suppress(OSError):
            data = peer.recv(4096)
        if not data:
            self._drop(peer)
            return
        *lines, self._texts[peer] = (self._texts[peer] + data.decode(errors="replace")).split("\n")
        for line in lines:
            self._read_line(peer, line.split(" "))

    def _read_line(self, peer: socket.socket, words: list[str]) -> None:
        if peer in self._peers:
            rank = self._peers[peer]
            self.receive(rank, words[0], *map(int, words[1:]))
            if words[0] == "bye":
                del self._peers[peer]
        elif words[:2] == ["hello", self._secret] and len(words) == 3:
            self._peers[peer] = int(words[2])

    def _drop(self, peer: socket.socket) -> None:
        assert self._selector is not None
        self._selector.unregister(peer)
        peer.close()
        del self._texts[peer]
        if (rank := self._peers.pop(peer, None)) is not None:
            self.receive(rank, "lost")


def _notice_lost_machines(peer: socket.socket) -> None:
    """Close the connection half a minute after the other machine has lost its power or its network."""
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}.items():
        # Other systems have other names for these options.
        if option := getattr(socket, name, None):
            peer.setsockopt(socket.IPPROTO_TCP, option, value)
