"""A channel: nobody who sends waits, and what waits is bounded for each owner."""

from __future__ import annotations

import socket
import threading

import pytest

from cf_agents.links.channel import Channel
from cf_agents.links.wire import Close, Know, Message, Progress

BOUND = 300_000


@pytest.fixture
def ends():
    near, far = socket.socketpair()
    pair = Channel(near, BOUND), Channel(far, BOUND)
    yield pair
    for channel in pair:
        channel.close()
        channel.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "cf-agents-writer"]


def take(channel: Channel, count: int) -> list[Message | None]:
    return [channel.receive() for _ in range(count)]


def test_messages_go_both_ways_in_order(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    for number in range(100):
        assert near.send(Close(number), 0)
        assert far.send(Progress(str(number)))
    assert take(far, 100) == [Close(number) for number in range(100)]
    assert take(near, 100) == [Progress(str(number)) for number in range(100)]


def test_a_reader_that_stands_still_stops_nobody_and_is_bounded(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    # Nobody reads until here: were a send to wait for that, it would wait for ever.
    taken = [near.send(Know(str(number), bytes(50_000)), 1) for number in range(100)]
    sent = taken.index(False)
    assert not any(taken[sent:])
    assert sent * 50_000 < BOUND + 2_000_000  # the socket holds some of it
    # Another owner has room of its own; what has no owner is never dropped.
    assert near.send(Close(7), 2)
    assert near.send(Progress("x" * BOUND))
    got = take(far, sent + 2)
    assert got[:sent] == [Know(str(number), bytes(50_000)) for number in range(sent)]
    assert got[sent:] == [Close(7), Progress("x" * BOUND)]
    near.flush(5.0)
    assert near.send(Know("again", bytes(50_000)), 1)
    assert far.receive() == Know("again", bytes(50_000))


def test_one_message_past_the_bound_goes_when_nothing_waits(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    assert near.send(Know("big", bytes(10 * BOUND)), 1)
    assert far.receive() == Know("big", bytes(10 * BOUND))


@pytest.mark.parametrize("backlog", [False, True])
def test_the_end_is_seen(ends: tuple[Channel, Channel], backlog: bool) -> None:
    near, far = ends
    if backlog:
        far.send(Know("big", bytes(10 * BOUND)), 1)
    near.end_sending()
    assert far.receive() is None
    far.close()
    assert near.send(Close(0))
    if not backlog:
        assert near.receive() is None


def test_receiving_ends_when_it_is_told_to(ends: tuple[Channel, Channel]) -> None:
    near, _ = ends
    timer = threading.Timer(0.05, near.end_receiving)
    timer.start()
    assert near.receive() is None
    timer.join()


def test_senders_do_not_tear_each_others_messages(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    threads = [
        threading.Thread(target=lambda n=n: [near.send(Know(str(n), bytes([n]) * 20_000)) for _ in range(50)]) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    got = take(far, 200)
    for thread in threads:
        thread.join()
    assert all(isinstance(each, Know) and each.data == bytes([int(each.digest)]) * 20_000 for each in got)


def test_an_end_that_leaves_too_much_unread_is_ended() -> None:
    """What has no owner is never dropped: there has to be an end to it."""
    near, far = socket.socketpair()
    channel = Channel(near, BOUND, most_bytes=BOUND)
    for number in range(100):
        channel.send(Know(str(number), bytes(50_000)))
    assert channel.receive() is None
    channel.close()
    far.close()


def test_what_is_sent_before_there_is_a_socket_goes_first() -> None:
    near, far = socket.socketpair()
    early, reader = Channel(), Channel(far)
    sent = [Know(str(number), bytes(50_000)) for number in range(20)]
    for message in sent[:10]:
        assert early.send(message, 1)
    early.connect(near)
    for message in sent[10:]:
        early.send(message, 1)
    assert take(reader, 20) == sent
    early.close()
    reader.close()
