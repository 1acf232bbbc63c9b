"""The semi stage against the paper, transcribed slowly from its sections 2 and 3."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import Block
from torch.nn.functional import log_softmax, softmax
from torch.testing import assert_close

from fastsemi.common.errors import UserError
from fastsemi.kernels.reference.noise import erase_noise
from fastsemi.loaders.data import Data
from fastsemi.models.create import create_model
from fastsemi.models.settings import ModelConfig
from fastsemi.run.build import build_stage
from fastsemi.run.context import RunContext
from fastsemi.stages.compaction import Compaction
from fastsemi.stages.inputs import Views
from fastsemi.stages.pseudo_label_metrics import pseudo_label_metrics
from fastsemi.stages.semi import Semi
from fastsemi.stages.thresholds.base import PseudoLabels
from fastsemi.stages.thresholds.fixed import Fixed


@pytest.fixture
def build(tiny):
    """The function `build(*options)`: a semi stage and one of its batches on the device."""

    opened = []

    def _build(*options, threshold=None):
        config = tiny("--stages", "[semi]", "--semi.drop_path", "0", "--model.head_init_scale", "5", *options)
        run = RunContext(config)
        opened.append(run)
        stage = build_stage(run, "semi")
        batch = {}
        for name, role in stage.roles.items():
            with run.data.load(role.images, [role.stream.plan(3, 0)]) as loader:
                batch[name] = run.views.to_device(next(loader))
        with torch.no_grad():
            for parameter in stage.teacher.model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        if threshold is not None:  # a quantile of the confidences after mixing: some are kept, some are not
            confidence = stage.pseudo_label(batch["unlabelled"])[1]
            o = torch.maximum(confidence, confidence[batch["unlabelled"].mix.partner])
            semi = dataclasses.replace(config.semi, threshold=float(o.quantile(threshold)) + 1e-4)
            config, stage.config = dataclasses.replace(config, semi=semi), semi
            stage.rule = Fixed(semi.threshold)
        return stage, batch, config

    yield _build
    for run in opened:
        run.close()


def _image(stage, batch, view, i, config):
    """Normalised and erased view i, [3, S, S]."""
    pixels = stage._views.augment(batch, view)[i].double() / 255
    image = ((pixels - torch.tensor(config.data.mean)) / torch.tensor(config.data.std)).permute(2, 0, 1)
    erase = batch.plans[view].erase
    if erase is not None and erase.box[i, 2]:
        left, top, width, height = erase.box[i]
        noise = erase_noise(torch.from_numpy(erase.key[i : i + 1]), image.shape[1], image.device)[0]
        area = np.s_[:, top : top + height, left : left + width]
        image[area] = noise.permute(2, 0, 1).double()[area]
    return image


def _mixed(images, targets, i, j, lam, cutmix, centre):
    """Equation 3 for sample i with partner j; lam is corrected to the pixels really kept."""
    size = images[0].shape[1]
    if not cutmix or i == j:
        lam = 1.0 if i == j else lam
        return lam * images[i] + (1 - lam) * images[j], lam * targets[i] + (1 - lam) * targets[j]
    side = int(size * np.sqrt(np.float32(1) - np.float32(lam)))
    x, y = (int(np.float32(size) * c) for c in centre)
    box = np.s_[:, max(0, y - side // 2) : y + (side + 1) // 2, max(0, x - side // 2) : x + (side + 1) // 2]
    image = images[i].clone()
    image[box] = images[j][box]
    lam = 1 - images[j][box][0].numel() / size**2
    return image, lam * targets[i] + (1 - lam) * targets[j]


def _slow_loss(student, teacher, stage, batch, config):
    settings, classes = config.semi, 3

    def smooth(y):
        s = settings.label_smoothing
        return (1 - s) * torch.eye(classes)[y].double() + s / classes

    def cross_entropy(image, target):
        return -(target * log_softmax(student(image[None])[0], 0)).sum()

    labelled, unlabelled = batch["labelled"], batch["unlabelled"]
    n_l, n_u = len(labelled.labels), len(unlabelled.labels)

    images = [_image(stage, labelled, 0, i, config) for i in range(n_l)]
    targets = [smooth(y) for y in labelled.labels]
    supervised = 0.0
    for i in range(n_l):
        mix = labelled.mix
        image, target = _mixed(
            images,
            targets,
            i,
            int(mix.partner[i]),
            float(mix.lam[i]),
            bool(mix.cutmix[i]),
            mix.centre[i].numpy(),
        )
        supervised += cross_entropy(image, target) / n_l

    with torch.no_grad():
        p = [softmax(teacher(_image(stage, unlabelled, 0, i, config)[None])[0], 0) for i in range(n_u)]
    o, targets = [float(x.max()) for x in p], [smooth(int(x.argmax())) for x in p]
    images = [_image(stage, unlabelled, 1, i, config) for i in range(n_u)]
    unsupervised, kept = 0.0, 0
    for i in range(n_u):
        mix = unlabelled.mix
        j = int(mix.partner[i])
        lam = o[i] / (o[i] + o[j])  # equation 4
        if max(o[i], o[j]) < settings.threshold:  # equation 5
            continue
        kept += 1
        image, target = _mixed(images, targets, i, j, lam, bool(mix.cutmix[i]), mix.centre[i].numpy())
        unsupervised += cross_entropy(image, target) / n_u
    return supervised + settings.loss_weight * unsupervised, kept


@pytest.mark.parametrize("skip", ["true", "false"])
def test_one_step_equals_the_paper_in_loss_and_every_gradient(build, skip):
    stage, batch, config = build("--semi.skip_rejected", skip, threshold=0.4)
    student, teacher = copy.deepcopy(stage.model).double(), copy.deepcopy(stage.teacher.model).double()
    loss = stage.loss(batch).loss
    loss.backward()
    expected, kept = _slow_loss(student, teacher, stage, batch, config)
    expected.backward()
    assert 0 < kept < len(batch["unlabelled"].labels), "some are kept and some are not"
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for (name, ours), theirs in zip(stage.model.named_parameters(), student.parameters(), strict=True):
        if theirs.grad is not None and theirs.grad.norm():
            error = (ours.grad.double() - theirs.grad).norm() / theirs.grad.norm()
            assert error < 1e-5, f"{name}: {error}"


@pytest.mark.parametrize("mixing", ["none", "pseudo", "pseudo_plus", "prob"])
def test_leaving_rejected_samples_out_changes_no_gradient(build, mixing):
    gradients = []
    for skip in ("true", "false"):
        stage, batch, _ = build("--semi.skip_rejected", skip, "--semi.mixing", mixing, threshold=0.4)
        output = stage.loss(batch)
        accepted = output.metrics["acceptance"]
        assert 0 < int(accepted.total) < accepted.count, "some are kept and some are not"
        output.loss.backward()
        gradients.append([p.grad for p in stage.model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm().clamp(min=1e-12)


def test_compaction_keeps_all_kept_rows_and_few_others():
    for count in (0, 1, 5, 8, 40):
        keep = torch.zeros(40, dtype=torch.bool)
        keep[torch.randperm(40, generator=torch.Generator().manual_seed(count))[:count]] = True
        rows = Compaction(keep).select(torch.arange(40))
        assert set(torch.flatten(keep.nonzero()).tolist()) <= set(rows.tolist())
        assert len(rows) % 5 == 0 and len(rows) < count + 5
    assert len(Compaction(torch.zeros(40, dtype=torch.bool), least=1).select(torch.arange(40))) == 5


def test_batch_norm_refuses_to_leave_samples_out(build, tiny):
    config = tiny("--semi.skip_rejected", "true")
    model = create_model(ModelConfig("resnet18"), num_classes=3, image_size=16)
    data = Data(config.data, config.loader)
    with pytest.raises(UserError, match="batch norm"):
        Semi(config.semi, model, data, Views(config.data, torch.device("cpu")), seed=0)
    data.close()


def test_a_step_without_any_kept_sample_is_the_supervised_step(build):
    stage, batch, _ = build("--semi.threshold", "1.0")
    output = stage.loss(batch)
    output.loss.backward()
    metrics = output.metrics
    assert float(metrics["loss_unlabelled"].total) == 0
    assert float(output.loss.detach()) == pytest.approx(float(metrics["loss_labelled"].total))


def test_pseudo_label_metrics_count_what_is_known():
    pseudo = PseudoLabels(
        torch.tensor([0, 1, 2, 1]), torch.tensor([0.9, 0.8, 0.3, 0.7]), torch.zeros(4, 3), torch.arange(4)
    )
    truth = torch.tensor([0, 2, 2, -1])
    metrics = pseudo_label_metrics(
        pseudo, Fixed(0.5).weights(pseudo), torch.tensor([1.0, 1, 0, 1]), truth, classes=3
    )
    assert float(metrics["acceptance"].total) / metrics["acceptance"].count == 0.75
    accuracy, recall = metrics["pseudo_label_accuracy"], metrics["pseudo_label_recall"]
    assert (int(accuracy.total), int(accuracy.count)) == (1, 2)
    assert (int(recall.total), int(recall.count)) == (1, 3)
    share, accuracy = metrics["pseudo_label_share_by_class"], metrics["pseudo_label_accuracy_by_class"]
    assert (share.total.tolist(), share.count.tolist()) == ([1, 2, 0], [3, 3, 3])
    assert (accuracy.total.tolist(), accuracy.count.tolist()) == ([1, 0, 0], [1, 1, 0])
    few = pseudo_label_metrics(pseudo, Fixed(0.5).weights(pseudo), torch.ones(4), truth, classes=101)
    assert not any(name.endswith("by_class") for name in few), "a thousand numbers a row are not read"


def test_only_the_student_of_unlabelled_images_leaves_patches_out(build):
    """Its loss is that of the whole labelled images and of half of the patches of the others."""
    stage, batch, _ = build("--semi.keep_tokens", "0.5", "--semi.threshold", "0")
    whole, _, _ = build("--semi.threshold", "0")
    seen = []
    for network in (stage.model, stage.teacher.model):
        network.blocks[0].register_forward_pre_hook(
            lambda block, given: seen.append((block, given[0].shape[:2]))
        )
    found = stage.loss(batch).metrics
    n_l, n_u = len(batch["labelled"].labels), len(batch["unlabelled"].labels)
    teacher, student = stage.teacher.model.blocks[0], stage.model.blocks[0]
    assert seen == [(teacher, (n_u, 17)), (student, (n_l, 17)), (student, (n_u, 9))]
    whole.model.load_state_dict(stage.model.state_dict())
    whole.teacher.model.load_state_dict(stage.teacher.model.state_dict())
    expected = whole.loss(batch).metrics
    assert_close(found["loss_labelled"].total, expected["loss_labelled"].total)
    assert abs(found["loss_unlabelled"].total - expected["loss_unlabelled"].total) > 1e-3


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_only_the_teacher_that_labels_merges_tokens(build, dtype):
    """Student, evaluation and what is saved are those of a stage that merges none."""
    options = ("--semi.threshold", "0", "--semi.teacher_dtype", dtype)
    merging, batch, _ = build("--semi.merge_tokens", "5", *options)
    plain, _, _ = build(*options)
    plain.model.load_state_dict(merging.model.state_dict())
    plain.load_extra_state(merging.extra_state())
    merging.teacher.refresh()
    seen = []
    for block in (*merging.teacher.runner.blocks, *merging.model.blocks):
        block.mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    found, expected = merging.loss(batch).metrics, plain.loss(batch).metrics
    assert seen == [12, 7, 17, 17], "5 of 16 patches, 5 of 11; the student sees the class token and 16"
    assert torch.equal(found["loss_labelled"].total, expected["loss_labelled"].total)
    logits = [stage.pseudo_label(batch["unlabelled"]).logits for stage in (merging, plain)]
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    images = torch.randn(3, 3, 16, 16)
    for name, network in merging.eval_models().items():
        assert torch.equal(network.eval()(images), plain.eval_models()[name].eval()(images)), name
    assert torch.equal(merging.result()(images), plain.result()(images))
    saved = [stage.extra_state()["teacher"] for stage in (merging, plain)]
    assert list(saved[0]) == list(saved[1]) and saved[0]["head.weight"].dtype == torch.float32


def test_without_merging_no_block_is_another(build):
    stage, _, _ = build("--semi.merge_tokens", "0")
    assert type(stage.teacher.model.blocks) is torch.nn.Sequential
    assert {type(block) for block in stage.teacher.model.blocks} == {Block}
