"""Defects that trainers of the family had, put back into a copy of the package: tests see them.

The table is what may be read: what was wrong, how little of the source it takes, and which tests
fail. A test that passes with its defect in place guards nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

import openjanus

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "training.md"

LOSSES = "tests/train/test_losses.py::"
TRAINER = "tests/train/test_trainer.py::"
COLLATE = "tests/data/test_collate.py::"
PROMPT = "tests/processor/test_prompt.py::"
DOCUMENTS = "tests/model/test_documents.py::"
GAN = "tests/train/test_gan.py::"
OPTIM = "tests/train/test_optim.py::"


@dataclass(frozen=True, kw_only=True, slots=True)
class Defect:
    """A defect, and what sees it."""

    name: str
    was: str
    """What was wrong."""
    edits: tuple[tuple[str, str], ...]
    """Pieces of source, each found exactly once in the package, and what stands in their place."""
    tests: tuple[str, ...]
    """Each fails with the defect, in one of its cases at least."""


DEFECTS = (
    # The list of defects seen in other trainers, in its order.
    Defect(
        name="image_logits_shifted_twice",
        was="labels were shifted by the collator and logits again by the loss: no first id",
        edits=(
            (
                'add("image", batch.image_places, batch.image_ids.flatten(), weights.gen)',
                (
                    'add("image", batch.image_places.view_as(batch.image_ids)[:, 1:].flatten(), '
                    "batch.image_ids[:, 1:].flatten(), weights.gen)"
                ),
            ),
        ),
        tests=(
            LOSSES + "test_the_state_at_boi_learns_the_first_id_and_the_last_ids_state_nothing",
        ),
    ),
    Defect(
        name="image_logits_not_shifted",
        was="the state at an id predicts that very id, and <begin_of_image> nothing",
        edits=(
            (
                "np.arange(first - 1, first - 1 + num_ids)",
                "np.arange(first, first + num_ids)",
            ),
        ),
        tests=(
            LOSSES + "test_the_state_at_boi_learns_the_first_id_and_the_last_ids_state_nothing",
            COLLATE + "test_the_place_before_an_id_predicts_it",
        ),
    ),
    Defect(
        name="targets_through_the_understanding_path",
        was="pictures to draw were padded and normalised as pictures to understand",
        edits=(("encode_to_ids(processor.gen_pixels(", "encode_to_ids(processor.und_pixels("),),
        tests=(COLLATE + "test_pictures_to_draw_are_cropped_not_padded",),
    ),
    Defect(
        name="nearest_code_under_autocast",
        was="the nearest code was searched in whatever autocast was on: bf16",
        edits=(
            (
                "with torch.autocast(z.device.type, enabled=False):",
                "with torch.autocast(z.device.type, enabled=torch.is_autocast_enabled('cpu')):",
            ),
        ),
        tests=(
            "tests/model/test_vq.py::test_nearest_is_fp32_also_under_autocast_and_in_bf16",
            "tests/train/test_doors.py::test_the_nearest_code_is_searched_in_fp32",
        ),
    ),
    Defect(
        name="nearest_code_in_the_dtype_of_the_weights",
        was="the nearest code was searched in bf16 because the weights were",
        edits=(
            ("z = F.normalize(z.float(), dim=-1)", "z = F.normalize(z, dim=-1)"),
            (
                "codebook = self.normalised_codebook()",
                "codebook = self.normalised_codebook().to(z.dtype)",
            ),
        ),
        tests=("tests/model/test_vq.py::test_nearest_is_fp32_also_under_autocast_and_in_bf16",),
    ),
    Defect(
        name="pad_hard_coded_in_the_tokenizer",
        was="the pad id of one checkpoint stood in the code",
        edits=(("self.pad_id = self._id_of(config.pad_token)", "self.pad_id = 2"),),
        tests=(
            COLLATE + "test_pads_are_the_tokenizers_own",
            "tests/processor/test_text.py::test_special_ids_are_those_of_their_names",
        ),
    ),
    Defect(
        name="pad_hard_coded_in_the_collator",
        was="rows were filled up with the pad id of one checkpoint",
        edits=(("np.full(size, tokenizer.pad_id, np.int64)", "np.full(size, 2, np.int64)"),),
        tests=(COLLATE + "test_pads_are_the_tokenizers_own",),
    ),
    Defect(
        name="mean_of_means_over_modalities",
        was="the loss was the mean of the text loss and the image loss, one token or a thousand",
        edits=(
            ("totals.append((losses * weight).sum())", "totals.append(losses.mean())"),
            (
                "total = torch.stack(totals).sum() / whole",
                "total = torch.stack(totals).mean()",
            ),
        ),
        tests=(
            LOSSES + "test_it_is_one_mean_over_all_supervised_tokens",
            TRAINER + "test_accumulated_gradients_are_those_of_the_whole_batch",
        ),
    ),
    Defect(
        name="mean_of_means_over_accumulation",
        was="each part of an accumulated step was divided by its own tokens",
        edits=(
            (
                "batch, whole, doors, dropout=key",
                "batch, self.num_supervised(batch) * len(batches), doors, dropout=key",
            ),
        ),
        tests=(TRAINER + "test_accumulated_gradients_are_those_of_the_whole_batch",),
    ),
    Defect(
        name="mean_of_means_over_processes",
        was="each process divided by its own tokens, and gradients were averaged",
        edits=(
            (
                "whole = sum(weight for weight, _ in told)",
                "whole = told[self.world.rank][0] * len(told)",
            ),
        ),
        tests=("tests/train/test_parallel.py::test_the_mean_is_over_the_tokens_of_all_processes",),
    ),
    Defect(
        name="nan_of_a_batch_without_text",
        was="the text loss of a batch of drawings was the mean of nothing",
        edits=(
            ("if num_text > 0:", "if True:"),
            (
                "totals.append((losses * weight).sum())",
                "totals.append(losses.mean() * len(losses))",
            ),
        ),
        tests=(LOSSES + "test_a_missing_kind_leaves_no_trace",),
    ),
    Defect(
        name="nan_hidden",
        was="a loss that was not a number became 0, so that nobody heard of it",
        edits=(
            (
                "total = torch.stack(totals).sum() /",
                "total = torch.stack(totals).nan_to_num().sum() /",
            ),
        ),
        tests=(TRAINER + "test_a_loss_that_is_not_finite_stops_and_names_the_samples",),
    ),
    Defect(
        name="trained_through_the_sampling_loop",
        was="the decoder ran once a token, as when it draws",
        edits=(
            (
                "return run(embeds, positions=batch.positions, mask=mask)",
                (
                    "return torch.cat([run(embeds[:, : at + 1], positions=batch.positions[:, : at"
                    " + 1], mask=mask)[:, -1:] for at in range(embeds.shape[1])], dim=1)"
                ),
            ),
        ),
        tests=(
            LOSSES + "test_the_state_at_boi_learns_the_first_id_and_the_last_ids_state_nothing",
        ),
    ),
    Defect(
        name="trained_on_ids_that_were_drawn",
        was="what came back in were ids that were sampled, not those of the picture",
        edits=(
            (
                "model.embed_gen(batch.image_ids))",
                (
                    "model.embed_gen(torch.randint(model.config.codebook_size, batch.image_ids"
                    ".shape, generator=torch.Generator().manual_seed(0))))"
                ),
            ),
        ),
        tests=(LOSSES + "test_what_comes_back_in_are_the_ids_that_are_taught",),
    ),
    Defect(
        name="prompt_not_masked",
        was="what users say was learnt like answers",
        edits=(("mask = [any(a <= start and end <= b for a, b in spans)", "mask = [end > start"),),
        tests=(
            COLLATE + "test_only_answers_and_their_end_are_supervised",
            PROMPT + "test_the_loss_mask_covers_the_answers_and_their_ends",
        ),
    ),
    Defect(
        name="system_prompt_not_masked",
        was="the system prompt was learnt, the same words in every sample",
        edits=(
            (
                "mask = [any(a <= start and end <= b for a, b in spans)",
                "mask = [end <= len(system or '') or any(a <= start < b for a, b in spans)",
            ),
        ),
        tests=(PROMPT + "test_a_system_prompt_is_read_and_not_learnt",),
    ),
    Defect(
        name="drawing_prompt_not_masked",
        was="the words of a drawing's prompt were learnt beside its ids",
        edits=(
            (
                "loss_mask=(False,) * len(ids),\n        gen_start=len(prompt),",
                (
                    "loss_mask=(False,) + (True,) * (len(prompt) - 2) + (False,) * (num_ids + 1),"
                    "\n        gen_start=len(prompt),"
                ),
            ),
        ),
        tests=(COLLATE + "test_the_place_before_an_id_predicts_it",),
    ),
    Defect(
        name="masking_option_not_passed_on",
        was="the run asked for masked prompts, and what encodes samples did not hear of it",
        edits=(("mask_prompt=self.mask_prompt,", "mask_prompt=False,"),),
        tests=("tests/data/test_encoding.py::test_prompts_are_masked_unless_asked_otherwise",),
    ),
    Defect(
        name="discriminator_learns_from_the_generators_step",
        was="the generator's backward left gradients in the discriminator, which its step took",
        edits=(("with frozen(discriminator):", "with frozen(nn.Identity()):"),),
        tests=(
            GAN + "test_the_generators_term_leaves_nothing_in_the_discriminator",
            GAN + "test_a_step_updates_the_discriminator_by_its_own_loss_alone",
        ),
    ),
    Defect(
        name="weight_decay_unused",
        was="weight decay was an option that reached no optimizer",
        edits=(
            (
                '[p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay}',
                '[p for p in rest if p.ndim >= 2], "weight_decay": 0.0}',
            ),
        ),
        tests=(OPTIM + "test_weight_decay_is_used_and_on_matrices_alone",),
    ),
    Defect(
        name="weight_decay_on_norms_and_biases",
        was="weight decay drew norms and biases to 0 as well",
        edits=(
            (
                '[p for p in rest if p.ndim < 2], "weight_decay": 0.0}',
                '[p for p in rest if p.ndim < 2], "weight_decay": config.weight_decay}',
            ),
        ),
        tests=(OPTIM + "test_weight_decay_is_used_and_on_matrices_alone",),
    ),
    Defect(
        name="loader_started_before_its_state",
        was="the loader was started, and its state restored after: old samples came first",
        edits=(
            (
                'self._position = state["data"]\n        self._next = None\n',
                'self._position = state["data"]\n',
            ),
        ),
        tests=(TRAINER + "test_what_was_prepared_before_a_state_came_is_thrown_away",),
    ),
    Defect(
        name="loader_state_forgotten",
        was="a resumed run began its data anew",
        edits=(('self._position = state["data"]\n', "self._position = {}\n"),),
        tests=(TRAINER + "test_a_resumed_run_is_the_uninterrupted_one_to_the_bit",),
    ),
    Defect(
        name="epoch_boundary_without_batches",
        was="a step at the end of an epoch got what was left of it: less, or nothing",
        edits=(
            (
                "return [self.draw(n, starts) for n in range(step * size, (step + 1) * size)]",
                (
                    "draws = [self.draw(n, starts) for n in range(step * size, step * size + "
                    "size)]; return [draw for draw in draws if draw.epoch == draws[0].epoch]"
                ),
            ),
        ),
        tests=("tests/data/test_mixture.py::test_batches_are_full_across_an_epochs_end",),
    ),
    Defect(
        name="packing_mask_cast_to_numbers",
        was="the mask was cast: 0 and 1 were added to the scores, and documents leaked",
        edits=(("q, k, v, attn_mask=self.mask, ", "q, k, v, attn_mask=self.mask.to(q.dtype), "),),
        tests=(
            DOCUMENTS + "test_no_document_changes_a_bit_of_another",
            DOCUMENTS + "test_every_way_gives_what_the_plain_mask_gives",
            LOSSES + "test_packed_is_unpacked",
        ),
    ),
    Defect(
        name="packing_mask_not_passed_on",
        was="a mask was made, and the decoder ran without it",
        edits=(
            (
                "mask = None if batch.document_ids is None else _isolate(",
                "mask = None if batch.document_ids is not None else _isolate(",
            ),
        ),
        tests=(LOSSES + "test_documents_of_a_row_do_not_see_each_other",),
    ),
    Defect(
        name="packing_mask_of_flex_without_documents",
        was="the compiled mask was causal alone",
        edits=(
            (
                "same = (document_ids[row, query] == document_ids[row, key]) & (key <= query)",
                "same = key <= query",
            ),
        ),
        tests=(DOCUMENTS + "test_every_way_gives_what_the_plain_mask_gives",),
    ),
    # Traps beside that list.
    Defect(
        name="one_document_a_row",
        was="all samples of a row were told to be one document",
        edits=(("documents[here] = document\n", "documents[here] = start // width\n"),),
        tests=(
            COLLATE + "test_packed_rows_restart_positions_and_keep_documents_apart",
            LOSSES + "test_documents_of_a_row_do_not_see_each_other",
        ),
    ),
    Defect(
        name="positions_go_on_across_documents",
        was="a packed document began at the position where the one before it had ended",
        edits=(
            (
                "positions[here] = np.arange(len(ids))",
                "positions[here] = start % width + np.arange(len(ids))",
            ),
        ),
        tests=(COLLATE + "test_packed_rows_restart_positions_and_keep_documents_apart",),
    ),
    Defect(
        name="end_of_an_answer_not_learnt",
        was="answers were supervised without their EOS: the model never stopped",
        edits=(
            (
                "spans.append((start, len(text)))",
                "spans.append((start, len(text) - len(config.eos_token)))",
            ),
        ),
        tests=(
            COLLATE + "test_only_answers_and_their_end_are_supervised",
            PROMPT + "test_the_loss_mask_covers_the_answers_and_their_ends",
        ),
    ),
    Defect(
        name="end_of_a_text_not_learnt",
        was="plain texts and captions were supervised without their EOS",
        edits=(
            (
                "[*ids, self.tokenizer.eos_id], [*mask, True]",
                "[*ids, self.tokenizer.eos_id], [*mask, False]",
            ),
        ),
        tests=(
            COLLATE + "test_plain_forms_are_stage_ones",
            PROMPT + "test_plain_training_by_hand",
        ),
    ),
    Defect(
        name="condition_dropped_with_its_ends",
        was="the dropped condition was pads all over, without BOS and <begin_of_image>",
        edits=(
            (
                "return self.uncond_prompt(len(ids))",
                "return (self.tokenizer.pad_id,) * len(ids)",
            ),
        ),
        tests=(
            COLLATE + "test_a_hidden_prompt_has_the_form_that_guidance_uses",
            PROMPT + "test_the_unconditional_prompt_keeps_length_and_ends",
        ),
    ),
    Defect(
        name="condition_dropped_with_its_length",
        was="the dropped condition was an empty prompt, which guidance never sees",
        edits=(("return self.uncond_prompt(len(ids))", "return self.uncond_prompt(2)"),),
        tests=(
            COLLATE + "test_a_hidden_prompt_has_the_form_that_guidance_uses",
            PROMPT + "test_the_unconditional_prompt_keeps_length_and_ends",
        ),
    ),
    Defect(
        name="condition_dropped_by_the_worker",
        was="conditions were dropped by a generator of the worker, not by seed, key and epoch",
        edits=(
            (
                "place = (self.seed, sample.key, draw.epoch)",
                'place = (__import__("os").getpid(), id(sample), draw.epoch)',
            ),
        ),
        tests=(
            "tests/data/test_encoding.py::test_what_is_changed_is_a_function_of_seed_key_and_epoch",
        ),
    ),
    Defect(
        name="condition_dropped_alike_in_every_epoch",
        was="the same captions were hidden in every epoch, and never learnt",
        edits=(
            (
                "place = (self.seed, sample.key, draw.epoch)",
                "place = (self.seed, sample.key)",
            ),
        ),
        tests=(
            "tests/data/test_encoding.py::test_what_is_changed_is_a_function_of_seed_key_and_epoch",
            TRAINER + "test_prompts_are_hidden_at_their_share_and_by_their_key",
        ),
    ),
    Defect(
        name="crops_by_the_worker",
        was="crops came from a generator of the process: a resumed run saw other pieces",
        edits=(
            (
                "np.random.default_rng([config.run.seed, index, CROPS])",
                "np.random.default_rng()",
            ),
        ),
        tests=("tests/train/test_vq_data.py::test_augmentation_depends_on_the_picture_alone",),
    ),
    Defect(
        name="frozen_after_sharding",
        was="parameters were frozen once they had been cut to parts",
        edits=(
            (
                "self._module = build_step(model, config, world)",
                (
                    "wanted = [p.requires_grad for p in model.parameters()]; "
                    "model.requires_grad_(True); self._module = build_step(model, config, world); "
                    "[p.requires_grad_(on) for p, on in zip(model.parameters(), wanted)]"
                ),
            ),
        ),
        tests=("tests/train/test_sharding.py::test_what_is_frozen_is_so_before_it_is_cut",),
    ),
    Defect(
        name="idle_doors_not_run",
        was="a process whose batch lacked a modality left that door out, and the others hung",
        edits=(("idle = doors - doors_of(batch)", "idle = frozenset[Door]()"),),
        tests=("tests/train/test_step.py::test_an_idle_door_is_run_and_counts_nothing",),
    ),
    Defect(
        name="loss_not_looked_at",
        was="a run went on with a loss that was not a number",
        edits=(("_check_finite(values, task, done + 1, folder)", "pass"),),
        tests=(
            TRAINER + "test_a_loss_that_is_not_finite_stops_and_names_the_samples",
            TRAINER + "test_a_gradient_that_is_not_finite_stops_too",
        ),
    ),
    Defect(
        name="bad_loss_without_its_samples",
        was="a run stopped, and nobody knew at which samples",
        edits=(("{', '.join(task.last_keys())}", "unknown"),),
        tests=(TRAINER + "test_a_loss_that_is_not_finite_stops_and_names_the_samples",),
    ),
    Defect(
        name="pictures_cut_at_the_end_of_a_row",
        was="rows were cut from one stream of tokens, through whatever lay there",
        edits=(
            (
                "width = max(sum(lengths[index] for index in row) for row in rows)",
                "width = pack_length or max(sum(lengths[i] for i in row) for row in rows)",
            ),
        ),
        tests=(COLLATE + "test_a_picture_lies_in_one_row_however_short_the_rows_are",),
    ),
    Defect(
        name="long_samples_cut",
        was="samples past the limit were cut silently, in the middle of a picture or an answer",
        edits=(
            (
                "    if len(encoded.input_ids) > max_length:\n        raise",
                (
                    '    encoded = __import__("dataclasses").replace(encoded, input_ids='
                    "encoded.input_ids[:max_length], loss_mask=encoded.loss_mask[:max_length])\n"
                    "    if len(encoded.input_ids) > max_length:\n        raise"
                ),
            ),
        ),
        tests=(COLLATE + "test_samples_past_the_limit_are_named",),
    ),
    Defect(
        name="more_pictures_than_a_row_may_have",
        was="a pack was full of pictures, and the encoder ran out of memory",
        edits=(("row.images + piece.images <= rules.max_images", "True"),),
        tests=("tests/data/test_packed.py::test_a_row_holds_no_more_pictures_than_allowed",),
    ),
    Defect(
        name="open_rows_lost",
        was="what lay in rows that were not full yet was lost from one step to the next",
        edits=(('for row in state.get("open", [])', "for row in ()"),),
        tests=("tests/data/test_packed.py::test_packs_are_full_and_no_sample_is_lost_or_doubled",),
    ),
    Defect(
        name="average_whole_in_every_process",
        was="the moving average was gathered, a whole model in every process",
        edits=(
            (
                "name: parameter.detach().clone() for name, parameter in self.parameters",
                (
                    'name: getattr(parameter.detach(), "full_tensor", parameter.detach)().clone() '
                    "for name, parameter in self.parameters"
                ),
            ),
        ),
        tests=("tests/train/test_ema.py::test_it_is_in_the_same_parts_as_the_weights",),
    ),
    Defect(
        name="average_of_what_is_frozen",
        was="the moving average was a deep copy of the model, frozen parts and all",
        edits=(
            (
                "self.ema = Ema(self.parameters.items(), config.ema_decay)",
                "self.ema = Ema(model.named_parameters(), config.ema_decay)",
            ),
        ),
        tests=("tests/train/test_ema.py::test_what_is_frozen_has_no_copy",),
    ),
)
"""Where the list and the traps of training Janus models are told in words, each is here in code."""

SERVER = """
import json, os, sys
import numpy, pytest, safetensors.torch, torch, torch.distributed.fsdp, torch.optim
for line in sys.stdin:  # torch is imported once: each run is a fork of this process
    arguments, sys.dont_write_bytecode = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)  # what pytest prints is no answer of ours
        code = 70
        try:
            code = int(pytest.main(arguments))
        finally:
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What pytest said."""

    code: int
    cases: dict[str, list[str]]
    """By test, without parameters: how each case ended, "" or the line of what was raised."""
    said: str


@dataclass(frozen=True, slots=True)
class Copy:
    """The package once more, to be changed, and what runs tests on it."""

    folder: Path
    run: Callable[..., Ran]


def find(folder: Path, text: str) -> Path:
    """The one file below a folder that holds a text, once: files are split, and texts move."""
    held = {path: path.read_text(encoding="utf-8").count(text) for path in folder.rglob("*.py")}
    found = {path.name: count for path, count in held.items() if count > 0}
    if sum(found.values()) != 1:
        pytest.fail(
            f"the source changed: {text!r} must be found once, and is found "
            f"{found or 'nowhere'}: update the table of defects"
        )
    return next(path for path, count in held.items() if count > 0)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    root = tmp_path_factory.mktemp("defects")
    package = root / "src" / "openjanus"
    shutil.copytree(
        Path(openjanus.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    own = {"PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        cwd=REPOSITORY,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | own,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(root / "said.txt").open("wb"),
        text=True,
    )
    assert server.stdin is not None and server.stdout is not None
    asking, answers = server.stdin, server.stdout

    def run(tests: list[str], *, keeps_bytecode: bool = False) -> Ran:
        report = root / "report.xml"
        report.unlink(missing_ok=True)
        begin = (root / "said.txt").stat().st_size
        options = [f"--junitxml={report}", f"--basetemp={root / 'runs'}", "-p", "no:cacheprovider"]
        arguments = [*options, "-q", "--no-header", *tests]
        asking.write(json.dumps([arguments, not keeps_bytecode]) + "\n")
        asking.flush()
        code = int(answers.readline())
        said = (root / "said.txt").read_bytes()[begin:].decode(errors="replace")
        return Ran(code=code, cases=_read(report) if report.exists() else {}, said=said)

    try:
        yield Copy(package, run)
    finally:
        asking.close()
        server.wait()


def _read(report: Path) -> dict[str, list[str]]:
    cases: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '')}"
        found = [child for child in case if child.tag in ("failure", "error", "skipped")]
        ends = [f"{child.tag} {(child.text or '-').strip().splitlines()[-1]}" for child in found]
        cases.setdefault(name.partition("[")[0], []).append(" ".join(ends))
    return cases


@pytest.fixture(scope="module")
def passing(copy: Copy, request: pytest.FixtureRequest) -> set[str]:
    """The tests of the defects that are asked for, which pass on the package as it is."""
    asked = [getattr(item, "callspec", None) for item in request.session.items]
    defects = [spec.params["defect"] for spec in asked if spec and "defect" in spec.params]
    tests = sorted({test for defect in defects for test in defect.tests})
    ran = copy.run(tests, keeps_bytecode=True)
    assert ran.code == 0, ran.said
    assert set(ran.cases) == set(tests)
    assert not any(end for ends in ran.cases.values() for end in ends)
    used = any(copy.folder.rglob("*.pyc"))
    assert used, "the tests ran on another package than the copy"
    return set(tests)


def test_the_table_is_of_this_source() -> None:
    """Quick, so that whoever changes a line hears of it before the long tests do."""
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS)
    for defect in DEFECTS:
        for old, new in defect.edits:
            assert old != new
            find(Path(openjanus.__file__).parent, old)
        for test in defect.tests:
            file, _, name = test.partition("::")
            assert f"def {name}(" in (REPOSITORY / file).read_text(encoding="utf-8"), test


def test_the_page_names_tests_of_the_table() -> None:
    named = re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8"))
    known = {test.partition("::")[2] for defect in DEFECTS for test in defect.tests}
    assert named and set(named) <= known, set(named) - known


def test_a_text_that_is_gone_is_told() -> None:
    with pytest.raises(pytest.fail.Exception, match="found nowhere: update the table of defects"):
        find(Path(openjanus.__file__).parent, "no such " + "line")


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
@pytest.mark.parametrize("defect", DEFECTS, ids=[defect.name for defect in DEFECTS])
def test_a_defect_put_back_is_seen(defect: Defect, copy: Copy, passing: set[str]) -> None:
    assert passing.issuperset(defect.tests)
    before: dict[Path, str] = {}
    try:
        for old, new in defect.edits:
            path = find(copy.folder, old)
            text = path.read_text(encoding="utf-8")
            before.setdefault(path, text)
            _write(path, text.replace(old, new))
        ran = copy.run(list(defect.tests))
    finally:
        for path, text in before.items():
            _write(path, text)
    assert ran.code == 1, ran.said
    for test in defect.tests:
        failed = [end for end in ran.cases[test] if end]
        assert failed, f"{test} passes with the defect in place: {ran.said}"
        # An assertion of the test's own: neither an import nor a line of the package.
        file = test.partition("::")[0]
        for end in failed:
            assert end.startswith(f"failure {file}:"), ran.said
            assert end.endswith((": AssertionError", ": Failed")), ran.said


def _write(path: Path, text: str) -> None:
    """With the compiled file gone, whatever the clock says."""
    path.write_text(text, encoding="utf-8")
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()
