"""The teacher against eq. 1, with parameters, batch-norm statistics and integer buffers."""

import pytest
import timm
import torch
from timm.utils import ModelEmaV2

from fastsemi.stages.teacher import EMATeacher

VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 48, "depth": 1, "num_heads": 3, "num_classes": 5}


def network(name):
    torch.manual_seed(0)
    return timm.create_model(name, **(VIT if name.startswith("vit") else {"num_classes": 5})).train()


def walk(model, steps=3):
    """Steps of SGD; batch-norm statistics move too."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for step in range(steps):
        images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
        yield


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t"])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.9999])
def test_updates_equal_equation_1(name, momentum):
    student = network(name)
    teacher = EMATeacher(student, momentum)
    mean = {key: tensor.double() for key, tensor in student.state_dict().items()}
    for _ in walk(student):
        teacher.update(student)
        for key, tensor in student.state_dict().items():
            averaged = momentum * mean[key] + (1 - momentum) * tensor.double()
            mean[key] = averaged if tensor.is_floating_point() else tensor.double()
    for key, tensor in teacher.model.state_dict().items():
        torch.testing.assert_close(tensor.double(), mean[key], rtol=1e-5, atol=1e-6, msg=key)


def test_it_is_timms_average_too():
    student = network("resnet10t")
    teacher, theirs = EMATeacher(student, 0.99), ModelEmaV2(student, decay=0.99)
    for _ in walk(student):
        teacher.update(student)
        theirs.update(student)
    for key, tensor in theirs.module.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(teacher.model.state_dict()[key], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t"])
def test_momentum_0_makes_the_teacher_the_student_exactly(name):
    student = network(name)
    teacher = EMATeacher(student, 0.0)
    for _ in walk(student):
        teacher.update(student)
        for key, tensor in student.state_dict().items():
            assert torch.equal(teacher.model.state_dict()[key], tensor), key
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(teacher(images), student.eval()(images))


def test_it_starts_as_a_copy_that_shares_nothing():
    student = network("resnet10t")
    teacher = EMATeacher(student, 0.9)
    start = {key: tensor.clone() for key, tensor in teacher.model.state_dict().items()}
    assert all(torch.equal(start[key], tensor) for key, tensor in student.state_dict().items())
    for _ in walk(student):
        pass
    assert all(torch.equal(start[key], tensor) for key, tensor in teacher.model.state_dict().items())


def test_it_stays_in_evaluation_mode_without_gradient():
    student = network("resnet10t")
    teacher = EMATeacher(student, 0.9).train()
    assert not any(module.training for module in teacher.modules()) and student.training
    assert not any(p.requires_grad for p in teacher.parameters())
    images = torch.randn(4, 3, 16, 16)
    before = {key: tensor.clone() for key, tensor in teacher.model.state_dict().items()}
    logits = teacher(images)
    assert not logits.requires_grad
    assert all(torch.equal(before[key], tensor) for key, tensor in teacher.model.state_dict().items())
    torch.testing.assert_close(teacher(images[:1]), logits[:1], rtol=1e-4, atol=1e-5)


def test_drop_path_is_off_in_the_teacher():
    torch.manual_seed(0)
    student = timm.create_model("vit_tiny_patch16_224", **{**VIT, "depth": 3}, drop_path_rate=0.9).train()
    teacher, images = EMATeacher(student, 0.9), torch.randn(4, 3, 16, 16)
    assert torch.equal(teacher(images), teacher(images))
    assert not torch.equal(student(images), student(images))


def test_frozen_parameters_are_shared():
    student = network("vit_tiny_patch16_224")
    student.pos_embed.requires_grad_(False)
    teacher = EMATeacher(student, 0.5)
    assert teacher.model.pos_embed is student.pos_embed
    assert teacher.model.head.weight is not student.head.weight
    with torch.no_grad():
        start = student.head.weight.clone()
        student.head.weight.add_(1.0)
    teacher.update(student)
    torch.testing.assert_close(teacher.model.head.weight.data, start.data + 0.5)


def test_a_full_precision_teacher_follows_a_half_precision_student():
    student = network("vit_tiny_patch16_224")
    teacher = EMATeacher(student, 0.5)
    start = teacher.model.head.weight.clone()
    half = network("vit_tiny_patch16_224").bfloat16()
    with torch.no_grad():
        half.head.weight.fill_(1.0)
    teacher.update(half)
    assert teacher.model.head.weight.dtype == torch.float32
    torch.testing.assert_close(teacher.model.head.weight.data, start.data * 0.5 + 0.5)
