"""What processes tell each other."""

import threading

import pytest

from l2o import processes
from l2o.processes import ALONE, Peers, PeersError
from tests.helpers import run_python


class Service:
    """A coordination service of this process, for as many threads."""

    def __init__(self, count):
        self.values = {}
        self.changed = threading.Condition()
        self.count = count
        self.arrived = {}

    def key_value_set(self, key, text):
        with self.changed:
            if key in self.values:
                raise RuntimeError(f"ALREADY_EXISTS: {key}")
            self.values[key] = text
            self.changed.notify_all()

    def blocking_key_value_get(self, key, milliseconds):
        with self.changed:
            found = lambda: key in self.values
            if not self.changed.wait_for(found, milliseconds / 1000):
                raise RuntimeError(f"DEADLINE_EXCEEDED: {key}\nand what gRPC adds")
            return self.values[key]

    def key_value_try_get(self, key):
        return self.values[key]

    def key_value_delete(self, key):
        del self.values[key]

    def key_value_dir_get(self, prefix):
        return [(k, v) for k, v in self.values.items() if k.startswith(prefix)]

    def wait_at_barrier(self, key, milliseconds):
        with self.changed:
            self.arrived[key] = self.arrived.get(key, 0) + 1
            self.changed.notify_all()
            all_here = lambda: self.arrived[key] == self.count
            if not self.changed.wait_for(all_here, milliseconds / 1000):
                raise RuntimeError("DEADLINE_EXCEEDED: Barrier timed out")


def together(work, count=3):
    """The results of `work(peers)` of as many processes, and the service."""
    service = Service(count)
    found = [None] * count

    def one(index):
        found[index] = work(Peers(index, count, service))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return found, service


def test_one_process_waits_for_nobody():
    assert (ALONE.index, ALONE.count, ALONE.is_first) == (0, 1, True)
    ALONE.barrier("nobody", 0.0)
    assert ALONE.agree("value", {"a": (1, 2)}) == {"a": [1, 2]}
    assert ALONE.by_first("work", lambda: 3) == 3
    assert ALONE.gather("values", [1.5], 0.0) == [[1.5]]
    ALONE.post("note", "text")
    assert ALONE.posted("note") is None
    with pytest.raises(ZeroDivisionError):
        ALONE.by_first("work", lambda: 1 // 0)


def test_the_first_one_decides():
    def work(peers):
        # The same name again is another question.
        return [peers.agree("value", 10 * peers.index + i, 5.0) for i in range(3)]

    found, _ = together(work)
    assert found == [[0, 1, 2]] * 3


def test_all_tell_all():
    found, _ = together(lambda peers: peers.gather("index", peers.index, 5.0))
    assert found == [[0, 1, 2]] * 3


def test_the_first_one_works_and_its_error_is_told():
    def broken():
        raise ValueError("the disk is full")

    def work(peers):
        assert peers.by_first("good", lambda: peers.index, 5.0) == 0
        with pytest.raises(ValueError if peers.is_first else PeersError) as caught:
            peers.by_first("bad", broken, 5.0)
        return str(caught.value)

    assert together(work)[0] == ["the disk is full"] * 3


def test_what_was_read_is_forgotten_at_a_barrier():
    def work(peers):
        other = peers.channel("other")
        other.agree("kept", 1, 5.0)
        for _ in range(5):
            peers.agree("value", 1, 5.0)
        peers.gather("values", 1, 5.0)
        peers.barrier("all", 5.0)

    _, service = together(work)
    assert list(service.values) == ["l2o/other/kept/0"]


def test_deadlines_name_what_was_waited_for():
    late = Peers(1, 2, Service(2))
    with pytest.raises(PeersError, match=r"process 0 must tell 'plan' within 0\.05 s"):
        late.agree("plan", None, 0.05)
    with pytest.raises(
        PeersError, match=r"all arrive within 0\.05 s at 'end'"
    ) as caught:
        late.barrier("end", 0.05)
    assert "\n" not in str(caught.value)


def test_a_wait_without_deadline_is_many_calls(monkeypatch):
    monkeypatch.setattr(processes, "_PATIENCE", 0.01)
    service = Service(2)
    timer = threading.Timer(0.1, service.key_value_set, ("l2o/plan/0", "7"))
    timer.start()
    assert Peers(1, 2, service).agree("plan", None) == 7


def test_the_first_note_stays():
    service = Service(2)
    one, other = Peers(0, 2, service), Peers(1, 2, service)
    assert one.posted("note") is None
    other.post("note", "a")
    one.post("note", "b")
    assert one.posted("note") == other.posted("note") == "a"


def test_a_process_alone_starts_no_service():
    code = "from l2o.processes import ALONE, joined; print(joined() is ALONE)"
    assert run_python(code) == "True\n"
