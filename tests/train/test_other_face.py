"""Watching the other face: at the start and the end, over a resume, and told when worse."""

from __future__ import annotations

import pytest

from openjanus.data.sources import SOURCES
from openjanus.data.toy import ToyScenes
from openjanus.train.loop import run_loop
from openjanus.train.metrics import read_metrics
from openjanus.train.source_config import SourceConfig, SourcesConfig
from openjanus.train.watch_config import WatchConfig


def watch(*kinds, **options):
    sources = {
        kind: [SourceConfig(type="toy", options={"kind": kind, "length": 64, "seed": 1})]
        for kind in kinds
    }
    return WatchConfig(sources=SourcesConfig(**sources), samples=10, **options)


def lines_of(folder):
    return read_metrics(folder / "metrics.jsonl")


def test_held_out_losses_are_in_the_metrics(make_config, make_trainer, tmp_path):
    config = make_config(watch=watch("und", "gen", every=2), run={"steps": 5})
    run_loop(make_trainer(config), config.run, description="x")
    told = [sorted(k for k in line if k.startswith("watch")) for line in lines_of(tmp_path / "run")]
    both = ["watch_gen", "watch_und"]
    assert told == [["watch_gen_start", "watch_und_start"], both, [], both, both]


def test_watching_changes_nothing_of_what_is_learnt(make_config, make_trainer, tmp_path):
    for name, watched in (("with", watch("und", every=1)), ("without", None)):
        config = make_config(watch=watched, run={"steps": 3, "dir": str(tmp_path / name)})
        run_loop(make_trainer(config), config.run, description="x")
    losses = [[line["loss"] for line in lines_of(tmp_path / n)] for n in ("with", "without")]
    assert losses[0] == losses[1]


def test_a_broken_sample_is_left_out_and_named(make_config, make_trainer, monkeypatch, capsys):
    class Broken(ToyScenes):
        broken = frozenset([3])

        def __getitem__(self, index):
            if index in self.broken:
                raise OSError("no picture")
            return super().__getitem__(index)

    whole = make_trainer(make_config(watch=watch("und")))._other_face
    monkeypatch.setitem(SOURCES._factories, "broken", Broken)
    options = {"kind": "und", "length": 64, "seed": 1}
    sources = SourcesConfig(und=[SourceConfig(type="broken", options=options)])
    config = make_config(watch=WatchConfig(sources=sources, samples=10))
    part = make_trainer(config)._other_face
    assert "watch leaves out und source 0 item 3: OSError: no picture" in capsys.readouterr().err
    sizes = [sum(map(len, face._batches["und"])) for face in (whole, part)]
    assert sizes == [10, 9] and part.measure() != whole.measure()
    Broken.broken = frozenset(range(10))
    with pytest.raises(ValueError, match="no sample of kind 'und' can be watched"):
        make_trainer(config)


def test_the_start_is_kept_over_a_resume(make_config, make_trainer, tmp_path):
    def run(name, **options):
        settings = {"steps": 4, "dir": str(tmp_path / name), **options}
        trainer = make_trainer(config := make_config(watch=watch("und"), run=settings))
        run_loop(trainer, config.run, description="x")
        return trainer._other_face.start, lines_of(tmp_path / name)[-1].get("watch_und")

    whole = run("whole")
    assert run("parts", stop_at=2) == (whole[0], None)
    assert run("parts", resume=True) == whole
    assert set(whole[0]) == {"watch_und"}


def test_a_loss_that_grew_past_the_margin_is_told(make_config, make_trainer, capsys):
    config = make_config(watch=watch("und", every=1, margin=0.1), run={"steps": 3})
    trainer = make_trainer(config)
    values = iter([{"watch_und": value} for value in (0.5, 0.59, 0.75, 0.4)])
    trainer._other_face.measure = lambda: next(values)
    run_loop(trainer, config.run, description="x")
    said = capsys.readouterr().err
    assert said.count("above its start") == 1
    assert "watch_und is 0.7500 after 2 steps, 0.2500 above its start" in said
    assert "mix more samples of this kind in" in said


def test_what_cannot_be_watched_is_refused(make_config, make_trainer):
    with pytest.raises(ValueError, match=r"watch\.sources must name a source"):
        make_trainer(make_config(watch=watch()))
    big = WatchConfig(
        sources=SourcesConfig(
            text=[SourceConfig(type="toy", options={"kind": "text", "length": 9})]
        )
    )
    with pytest.raises(ValueError, match=r"watch\.samples is 64, and a source to watch has 9"):
        make_trainer(make_config(watch=big))
    with pytest.raises(ValueError, match=r"watch\.samples must be >= 1"):
        WatchConfig(sources=SourcesConfig(), samples=0)
