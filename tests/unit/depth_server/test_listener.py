import socket
from contextlib import closing

from depth_server.serving import bind


def test_answers_do_not_wait_for_delayed_acknowledgements() -> None:
    with closing(bind("127.0.0.1", 0)) as listener, closing(socket.create_connection(listener.getsockname())):
        accepted, _ = listener.accept()
        with closing(accepted):
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
