"""One writer, on a storage in memory that has no way to create a file only if there is none."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from jobs import lease
from jobs.errors import JobError
from jobs.lease import Lease
from jobs.storage import Entry


class Memory:
    """What a lease needs of a storage; `clock` is its own, in ms."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, int]] = {}
        self.clock = 1_000_000
        self.lock = threading.Lock()

    def write(self, uri: str, content: bytes) -> None:
        with self.lock:
            self.clock += 1
            self.files[uri] = (content, self.clock)

    def modified(self, uri: str) -> int:
        return self.files[uri][1]

    def exists(self, uri: str) -> bool:
        return uri in self.files

    def delete(self, uri: str) -> None:
        with self.lock:
            self.files = {path: file for path, file in self.files.items() if not f"{path}/".startswith(f"{uri}/")}

    def delete_if_empty(self, uri: str) -> None:
        pass

    def entries(self, uri: str, limit: int) -> list[Entry]:
        files = dict(self.files)
        names = [path.removeprefix(f"{uri}/") for path in files if path.startswith(f"{uri}/")]
        return [Entry(name, False, files[f"{uri}/{name}"][1]) for name in sorted(names)][:limit]

    def read_json(self, uri: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self.files[uri][0]))
        except (KeyError, ValueError):
            return None


def take(storage: Memory, application: str = "app-1", pid: int | None = None, lost: list[str] | None = None) -> Lease:
    def on_loss() -> None:
        (lost if lost is not None else []).append(application)

    return Lease(storage, "out", application, [pid or os.getpid()], on_loss)  # type: ignore[arg-type]


@pytest.fixture
def storage() -> Memory:
    return Memory()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on other machines, of whose processes nothing can be seen."""
    monkeypatch.setattr(lease, "_mark", lambda _pid: None)


def passing(monkeypatch: pytest.MonkeyPatch, storage: Memory, each_second: Any = lambda: None) -> list[float]:
    """Time that passes for the storage while a lease sleeps; returns the sleeps."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        storage.clock += int(seconds * 1000)
        each_second()

    monkeypatch.setattr(time, "sleep", sleep)
    return slept


def test_a_claim_is_there_while_the_run_lives_and_gone_after(storage: Memory) -> None:
    with take(storage) as held:
        ((_path, (content, _)),) = storage.files.items()
        said = json.loads(content)
        assert (said["holds"], said["application"]) == (True, "app-1")
        held.check()
    assert not storage.files


def test_a_second_run_is_refused_while_the_first_lives(storage: Memory) -> None:
    with take(storage, "app-1"):
        with pytest.raises(JobError, match=r"another run is writing to out \(application app-1 of host .*\): wait"):
            take(storage, "app-2").__enter__()
        assert len(storage.files) == 1
    with take(storage, "app-2"):
        pass


def test_a_run_whose_processes_have_ended_is_dead_at_once(storage: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    first = take(storage, "app-1", process.pid)
    first._acquire()
    with pytest.raises(JobError, match="another run"):
        take(storage, "app-2").__enter__()
    process.communicate()
    slept = passing(monkeypatch, storage)
    with take(storage, "app-2"):
        pass
    assert sum(slept) <= 2


def test_a_run_of_which_half_has_ended_is_waited_for(storage: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    first = take(storage, "app-1", process.pid)
    first._said["processes"] = lease._alive([process.pid, os.getpid()])
    first._acquire()
    process.communicate()
    slept = passing(monkeypatch, storage)
    with take(storage, "app-2"):
        pass
    assert lease.EXPIRE_SECONDS - 1 <= sum(slept) <= lease.EXPIRE_SECONDS + 3


def test_a_process_number_used_again_is_not_the_same_process(storage: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    first = take(storage, "app-1")
    first._said = {**first._said, "processes": [[*lease._alive([os.getpid()])[0][:3], "1"]]}  # another time of start
    first._acquire()
    passing(monkeypatch, storage)
    with take(storage, "app-2"):
        pass


@pytest.mark.usefixtures("elsewhere")
def test_a_dead_run_of_another_machine_expires(storage: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    take(storage, "app-1")._acquire()
    slept = passing(monkeypatch, storage)
    with take(storage, "app-2"):
        assert len(storage.files) == 1
    assert lease.EXPIRE_SECONDS - 1 <= sum(slept) <= lease.EXPIRE_SECONDS + 3


@pytest.mark.usefixtures("elsewhere")
def test_a_living_run_of_another_machine_is_told_by_its_renewals(
    storage: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = take(storage, "app-1")
    first._acquire()
    begun = storage.clock
    slept = passing(monkeypatch, storage, lambda: storage.clock > begun + 10_000 and first._claim(holds=True))
    with pytest.raises(JobError, match="another run is writing"):
        take(storage, "app-2").__enter__()
    assert 10 <= sum(slept) <= 15


@pytest.mark.usefixtures("elsewhere")
def test_a_claim_torn_by_a_crash_expires_too(storage: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write("out/_lock/torn.json", b'{"holds": tr')
    passing(monkeypatch, storage)
    with take(storage):
        assert len(storage.files) == 1


@pytest.mark.parametrize("round_", range(5))
def test_of_many_at_once_exactly_one_proceeds(storage: Memory, monkeypatch: pytest.MonkeyPatch, round_: int) -> None:
    monkeypatch.setattr(random, "uniform", lambda *_: (1 + threading.get_ident() // 4096 % 97) / 2000)
    start, done = threading.Barrier(8), threading.Event()
    outcomes: list[str] = []

    def contend(name: str) -> None:
        start.wait()
        try:
            with take(storage, name):
                outcomes.append("held")
                done.wait(10)
        except JobError:
            outcomes.append("refused")

    threads = [threading.Thread(target=contend, args=(f"app-{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads[:]:
        thread.join(0.5)
    done.set()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", *["refused"] * 7], round_
    assert not storage.files


def test_the_lease_is_renewed_and_its_loss_is_noticed(storage: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.01)
    lost: list[str] = []
    with take(storage, lost=lost) as held:
        (path,) = storage.files
        written = storage.modified(path)
        held._thread.join(0.2)
        assert storage.modified(path) > written
        storage.delete(path)  # somebody took this run for dead
        held._thread.join(5)
        assert lost == ["app-1"]
        with pytest.raises(JobError, match=r"another run took over .* nothing more is written"):
            held.check()
    assert not storage.files


def test_a_storage_that_fails_too_long_loses_the_lease(storage: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.01)
    monkeypatch.setattr(lease, "EXPIRE_SECONDS", 0.2)
    lost: list[str] = []

    def broken(_uri: str, _content: bytes) -> None:
        raise OSError("the network is down")

    with take(storage, lost=lost) as held:
        monkeypatch.setattr(storage, "write", broken)
        held._thread.join(5)
        assert lost == ["app-1"]
        with pytest.raises(JobError, match="could not renew its claim"):
            held.check()
