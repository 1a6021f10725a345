"""The file of records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paceline.loadgen.recorder import Reader, Recorder, read_requests
from paceline.loadgen.timing import Record


class FakeClock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def record(number: int, t_send: float) -> Record:
    return Record(f"r{number}", "m", 1, "measure", 0, t_send, t_send + 1, "OK", tokens=[1, 2])


def test_write_and_read_back(tmp_path: Path) -> None:
    """Headers and records of all workers come back, records in order of sending."""
    for worker in (0, 1):
        recorder = Recorder(tmp_path / "run", worker, clock=FakeClock())
        recorder.write_header({"worker": worker})
        for i in range(3):
            recorder.add(record(i, t_send=i + worker * 0.5))
        recorder.close()
        recorder.close()
    headers, records = read_requests(tmp_path / "run")
    assert headers == [{"schema_version": 1, "worker": worker} for worker in (0, 1)]
    assert [r.t_send for r in records] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert records[0] == record(0, 0.0)


def test_reading_goes_on_where_it_was(tmp_path: Path) -> None:
    """Each time only new lines are taken; half a line waits until it is whole."""
    recorder = Recorder(tmp_path, 0, clock=FakeClock())
    recorder.write_header({"worker": 0})
    recorder.add(record(1, 1.0))
    recorder.flush()
    reader = Reader(tmp_path)
    reader.read()
    reader.read()
    assert len(reader.headers) == 1
    assert reader.records == [record(1, 1.0)]
    line = json.dumps(record(0, 0.5).to_json()) + "\n"
    with recorder.path.open("a", encoding="utf-8") as file:
        file.write(line[:20])
        file.flush()
        reader.read()
        assert reader.records == [record(1, 1.0)]
        file.write(line[20:])
    reader.read()
    assert reader.records == [record(0, 0.5), record(1, 1.0)]
    recorder.close()


def test_buffers_for_a_second(tmp_path: Path) -> None:
    """Records reach the file with the first one a second after the last writing, or at flush."""
    clock = FakeClock()
    recorder = Recorder(tmp_path, 0, clock=clock)

    def written() -> int:
        return len(read_requests(tmp_path)[1])

    recorder.add(record(0, 0.0))
    clock.now_s = 0.9
    recorder.add(record(1, 0.0))
    assert written() == 0
    clock.now_s = 1.0
    recorder.add(record(2, 0.0))
    assert written() == 3
    recorder.add(record(3, 0.0))
    assert written() == 3
    recorder.flush()
    assert written() == 4
    recorder.close()


def test_one_line_each(tmp_path: Path) -> None:
    """A record is one compact line."""
    recorder = Recorder(tmp_path, 3, clock=FakeClock())
    recorder.write_header({})
    recorder.add(record(0, 0.0))
    recorder.close()
    lines = (tmp_path / "requests.3.jsonl").read_text().splitlines()
    assert len(lines) == 2 and '"tokens":[1,2]' in lines[1]


def test_never_overwrites(tmp_path: Path) -> None:
    """A file that is there already is an error, not lost."""
    Recorder(tmp_path, 0, clock=FakeClock()).close()
    with pytest.raises(FileExistsError):
        Recorder(tmp_path, 0, clock=FakeClock())
