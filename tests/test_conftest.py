import os
import random
import socket
from pathlib import Path

import huggingface_hub.constants
import pytest


def test_no_connection_leaves_the_machine():
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as outside,
        pytest.raises(AssertionError, match=r"tried to reach 192\.0\.2\.1"),
    ):
        outside.settimeout(0.1)
        outside.connect(("192.0.2.1", 80))


def test_connections_within_the_machine_work():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_hub_is_offline_and_its_cache_is_not_the_users():
    assert huggingface_hub.constants.HF_HUB_OFFLINE
    assert huggingface_hub.constants.HF_HOME == os.environ["HF_HOME"] != str(Path.home() / ".cache" / "huggingface")


def test_working_folder_is_empty_and_the_tests_own(tmp_path):
    assert Path.cwd() == tmp_path
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("run", [1, 2])
def test_seeds_are_fixed(run):
    assert random.random() == 0.8444218515250481
