"""Two parts of a job's work at once, in threads."""

import os
import threading

import pytest
import torch

from tasks.processors import add_gradients, halved, in_threads, parts_at_once


def test_only_a_job_of_one_thread_and_process_works_on_two_parts(one_thread, monkeypatch):
    assert parts_at_once() == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert parts_at_once() == 1
    monkeypatch.delenv("WORLD_SIZE")
    torch.set_num_threads(2)
    assert parts_at_once() == 1
    torch.set_num_threads(1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert parts_at_once() == 1


def test_threads_work_at_once_and_answer_in_order(one_thread):
    both = threading.Barrier(2, timeout=30)
    assert in_threads(lambda item: (both.wait(), item)[1], [3, 4]) == [3, 4]
    assert in_threads(lambda item: item, []) == []


def test_gradients_in_threads_are_those_of_the_sum(one_thread):
    torch.manual_seed(0)
    model, rows = torch.nn.Linear(8, 4), torch.randn(5, 8)

    def gradients(together):
        model.zero_grad()
        if together:
            values = add_gradients(model, [lambda row=row: model(row).square().sum() for row in rows])
            assert torch.stack(values).sum().item() == pytest.approx(model(rows).square().sum().item())
        else:
            model(rows).square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    torch.testing.assert_close(gradients(together=True), gradients(together=False))
    assert all(map(torch.equal, gradients(together=True), gradients(together=True)))


def test_halves_of_a_batch_give_its_output_and_gradients(one_thread):
    torch.manual_seed(0)
    model, rows, weights = torch.nn.Linear(8, 1), torch.randn(5, 8), torch.randn(5, 1)
    parameters, shapes = list(model.parameters()), []

    def seen(x):
        shapes.append(len(x))
        return model(x)

    found, plain = halved(model, seen)(rows), model(rows)
    torch.testing.assert_close(found, plain)
    assert sorted(shapes) == [2, 3]
    ours, theirs = (torch.autograd.grad((out * weights).sum(), parameters) for out in (found, plain))
    torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        assert not halved(model, model)(rows).requires_grad
