"""The DINO loss against the published program's numbers, a slow loop, and itself."""

from pathlib import Path

import numpy as np
import pytest
import torch

from reference import normal
from transreid_ssl.pretrain import DINOLoss, cross_view_loss

REFERENCE = np.load(Path(__file__).parent / "reference.npz")


def test_three_calls_give_the_published_values_gradients_and_centres():
    loss = DINOLoss(
        512, 10, warmup_teacher_temp=0.04, teacher_temp=0.07, warmup_teacher_temp_epochs=5
    )
    for call, epoch in enumerate((0, 3, 10)):
        student = torch.tensor(normal(f"student{call}", (40, 512)), requires_grad=True)
        value = loss(student, torch.tensor(normal(f"teacher{call}", (8, 512))), epoch)
        value.backward()
        loss.update_center()
        expected = {k: REFERENCE[f"dino_loss/{call}/{k}"] for k in ("value", "grad", "center")}
        np.testing.assert_allclose(value.item(), expected["value"], rtol=1e-5)
        np.testing.assert_allclose(student.grad[:, ::16], expected["grad"], rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(loss.center, expected["center"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("num_student", "num_teacher"), [(2, 2), (5, 2), (4, 1), (3, 3)])
def test_cross_view_loss_equals_a_double_loop(num_student, num_teacher):
    generator = torch.Generator().manual_seed(num_student)
    student = torch.randn(num_student, 3, 7, generator=generator)
    teacher = torch.randn(num_teacher, 3, 7, generator=generator).softmax(dim=-1)
    terms = [
        -(teacher[t, b] * student[s, b].log_softmax(dim=-1)).sum()
        for t in range(num_teacher)
        for s in range(num_student)
        for b in range(3)
        if s != t
    ]
    torch.testing.assert_close(cross_view_loss(student, teacher), torch.stack(terms).mean())


@pytest.mark.parametrize(("num_student", "num_teacher"), [(2, 2), (5, 2), (4, 1)])
def test_its_gradient_is_that_of_its_values(num_student, num_teacher):
    generator = torch.Generator().manual_seed(num_student)
    student = torch.randn(num_student, 3, 7, generator=generator, dtype=torch.float64)
    teacher = torch.randn(num_teacher, 3, 7, generator=generator, dtype=torch.float64).softmax(-1)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: cross_view_loss(logits, teacher, 0.3), student)


def test_logits_are_kept_once_and_in_their_own_precision():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(10, 4, 512, generator=generator).bfloat16()
    teacher = torch.randn(2, 4, 512, generator=generator).softmax(dim=-1)
    kept = []

    def keep(value):
        kept.append(value.detach())
        return value

    found = {}
    for precision, exact in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        student = logits.detach().to(precision).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = cross_view_loss(student, teacher.to(exact), 0.1)
        loss.backward()
        found[precision] = loss.detach().double(), student.grad.double()
        large = [value.dtype for value in kept if value.numel() >= logits.numel()]
        assert large == [precision]
        kept.clear()
    (loss, gradient), (true_loss, true_gradient) = found.values()
    torch.testing.assert_close(loss, true_loss, rtol=1e-6, atol=0)  # the sums are not of bf16
    torch.testing.assert_close(gradient, true_gradient, rtol=2**-8, atol=1e-8)  # rounded once


def test_the_loss_of_an_ideal_student_is_the_entropy_of_the_teacher():
    loss = DINOLoss(16, 2, teacher_temp=0.5, student_temp=0.5).eval()
    logits = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    both = torch.cat([logits, logits])
    value, entropy = loss.with_entropy(both, both, epoch=0)
    torch.testing.assert_close(value, entropy)


def test_micro_batches_move_the_centre_as_one_batch_does():
    logits = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    whole, parts = DINOLoss(16, 2), DINOLoss(16, 2)
    whole(logits, logits, 0)
    whole.update_center()
    for part in (logits[:4], logits[4:]):
        parts(part, part, 0)
        assert not parts.center.any()  # all micro-batches of a step see the same centre
    parts.update_center()
    torch.testing.assert_close(parts.center, whole.center)
    before = parts.center.clone()
    parts.update_center()  # nothing waits
    assert torch.equal(parts.center, before)


def test_the_centre_stands_still_in_evaluation():
    loss = DINOLoss(16, 2).eval()
    loss(torch.ones(4, 16), torch.ones(4, 16), 0)
    loss.update_center()
    assert loss.center.abs().sum() == 0


def test_the_teacher_warms_up_in_equal_steps():
    loss = DINOLoss(4, 2, warmup_teacher_temp=0.04, teacher_temp=0.07, warmup_teacher_temp_epochs=4)
    temperatures = [loss.teacher_temp(epoch) for epoch in range(6)]
    np.testing.assert_allclose(temperatures, [0.04, 0.05, 0.06, 0.07, 0.07, 0.07])
    once = DINOLoss(4, 2, warmup_teacher_temp=0.04, teacher_temp=0.07, warmup_teacher_temp_epochs=1)
    assert [once.teacher_temp(epoch) for epoch in range(3)] == [0.04, 0.07, 0.07]


def test_the_loss_is_float32_under_autocast():
    values = []
    for enabled in (False, True):
        student = torch.tensor(normal("student0", (40, 512)), requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = DINOLoss(512, 10)(student, torch.tensor(normal("teacher0", (8, 512))), 0)
        value.backward()
        values.append((value.detach(), student.grad))
    torch.testing.assert_close(values[1], values[0], rtol=0, atol=0)


def test_a_step_that_is_not_made_does_not_move_the_centre():
    loss = DINOLoss(4, 2)
    loss(torch.ones(4, 4), torch.ones(4, 4), 0)
    loss.forget()
    loss.update_center()
    assert torch.equal(loss.center, torch.zeros(1, 4))


def test_calls_of_a_step_are_summed_up_and_not_kept():
    loss, logits = DINOLoss(4, 2), torch.randn(50, 4, 4, generator=torch.Generator().manual_seed(0))
    for part in logits:
        loss(part, part, 0)
    held = [value for value in vars(loss).values() if isinstance(value, torch.Tensor | list)]
    assert [tuple(value.shape) for value in held] == [(1, 4)]
    loss.update_center()
    torch.testing.assert_close(loss.center, 0.1 * logits.mean(dim=(0, 1))[None])
