"""Dialogues as the common tools write them."""

from __future__ import annotations

import base64
import json

import pytest

from openjanus.data.encoding import SampleEncoder, encode_sample
from openjanus.data.fetching import Crew, Fetcher
from openjanus.data.files.chat import ChatFile, parse_chat
from openjanus.data.mixture import Mixture
from openjanus.data.samples import IMAGE_MARK, KINDS, Kind
from openjanus.data.sources import Source, build_source
from openjanus.data.stream import SampleStream

RED, BLUE = (200, 30, 30), (30, 30, 200)


def llava(**changes):
    said = [
        {"from": "human", "value": "<image>\nWhich colour?"},
        {"from": "gpt", "value": "Red."},
    ]
    return {"id": "1", "image": "red.png", "conversations": said} | changes


def messages(*contents, **others):
    roles = ("user", "assistant")
    said = [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
    return {"messages": said, **others}


def colours(sample):
    return [tuple(image[0, 0].tolist()) for image in sample.images]


def said(sample):
    return [(turn.role, turn.text) for turn in sample.turns]


def part(kind, value):
    return {"type": kind, kind: value}


def test_llava_and_sharegpt(write_lines, pictures):
    text = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hé"}]}
    source = build_source(
        "chat-jsonl", {"path": str(write_lines("a.jsonl", [llava(), "", text], end="\r\n"))}
    )
    first, second = source[0], source[1]
    assert (first.key, first.kind, colours(first)) == ("a.jsonl:1", "und", [RED])
    assert said(first) == [("user", f"{IMAGE_MARK}\nWhich colour?"), ("assistant", "Red.")]
    assert (second.key, second.kind, said(second)[1]) == ("a.jsonl:3", "text", ("assistant", "Hé"))


def test_a_json_array_is_read_as_llava_ships_it(tmp_path, pictures):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([llava(), llava(image="blue.png")], indent=2))
    source = ChatFile(path=str(path))
    assert [colours(source[i]) for i in range(2)] == [[RED], [BLUE]]


def test_a_picture_without_a_mark_stands_before_the_question(pictures):
    chat = parse_chat(messages("Which?", "Red.", images=["red.png"]))
    assert chat.turns[0].text == f"{IMAGE_MARK}\nWhich?"


def test_marks_take_the_listed_pictures_in_order(write_lines, pictures):
    record = messages("<image> and <image>?", "No.", images=["blue.png", {"path": "red.png"}])
    sample = ChatFile(path=str(write_lines("a.jsonl", [record])))[0]
    assert colours(sample) == [BLUE, RED]
    assert sample.turns[0].text == f"{IMAGE_MARK} and {IMAGE_MARK}?"


def test_openai_parts(write_lines, pictures):
    data = base64.b64encode((pictures / "blue.png").read_bytes()).decode()
    parts = [
        part("image_url", {"url": f"data:image/png;base64,{data}"}),
        part("text", "and"),
        part("image", "red.png"),
        {"type": "image"},
        part("text", "?"),
    ]
    record = messages(parts, "No.", images=["blue.png"])
    sample = ChatFile(path=str(write_lines("a.jsonl", [record])))[0]
    assert colours(sample) == [BLUE, RED, BLUE]
    mark = IMAGE_MARK
    assert sample.turns[0].text == f"{mark}\nand\n{mark}\n{mark}\n?"


def test_a_system_message_is_the_samples_own(write_lines, processor):
    record = {"messages": [{"role": "system", "content": "Be curt."}]}
    record["messages"] += messages("Hi", "Yo")["messages"]
    sample = ChatFile(path=str(write_lines("a.jsonl", [record])))[0]
    ids = encode_sample(sample, processor, max_length=256).input_ids
    assert processor.tokenizer.decode(ids).startswith("Be curt.\n\n")


@pytest.mark.parametrize("answer", [[], [""], ["<image>"]])
def test_a_drawing_is_a_caption_beside_its_picture(write_lines, pictures, answer):
    record = messages("a red square", *answer, target_image="red.png")
    sample = ChatFile(path=str(write_lines("a.jsonl", [record])))[0]
    assert (sample.kind, said(sample)) == ("gen", [("user", "a red square")])
    assert sample.target is not None and (sample.target == RED).all()


def test_one_file_serves_every_face_of_the_mixture(write_lines, pictures, processor):
    lines = [llava(), messages("red", target_image="red.png"), messages("Hi", "Yo")] * 4
    path = str(write_lines("a.jsonl", lines))
    kinds: tuple[Kind, ...] = KINDS
    sources: dict[Kind, list[Source]] = {kind: [ChatFile(path=path, face=kind)] for kind in kinds}
    assert [sources["gen"][0][i].key for i in range(4)] == [f"a.jsonl:{n}" for n in (2, 5, 8, 11)]
    mixture = Mixture({k: [4] for k in kinds}, {k: [1] for k in kinds}, (1, 1, 1), seed=0)
    encode = SampleEncoder(processor=processor, max_length=256)
    stream = SampleStream(Crew(Fetcher(sources, mixture, encode)), mixture, batch_size=6)
    step = stream.step(0)
    assert step.bad == ()
    assert sorted(s.kind for s in step.samples) == sorted(kinds * 2)


def test_a_line_that_cannot_be_read_is_not_lost_with_its_face(write_lines):
    source = ChatFile(path=str(write_lines("a.jsonl", [messages("Hi", "Yo"), "{"])), face="und")
    assert len(source) == 1
    with pytest.raises(ValueError, match=r"a\.jsonl:2 is not valid JSON"):
        source[0]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"text": "words"}, r"either 'messages' or 'conversations', got keys \['text'\]"),
        ({**llava(), **messages("Hi")}, "either 'messages' or 'conversations'"),
        ({"messages": []}, "must be a list with a message"),
        ({"messages": ["Hi"]}, "message 0 must be an object, got str"),
        ({"messages": [{"role": "user"}]}, "message 0 has no 'content'"),
        ({"messages": [{"role": "asistant", "content": "Hi"}]}, "did you mean 'assistant'"),
        ({"messages": [{"role": "system", "content": "Hi"}]}, "no turn of a user"),
        (messages("<image>?", "No."), "1 <image> in the texts for 0 pictures"),
        (messages("<image>?", "No.", images=["a", "b"]), "1 <image> in the texts for 2 pictures"),
        (messages(3, "No."), "message 0: content must be"),
        (messages([{"type": "video", "video": "a"}], "No."), "must be of type text, image"),
        (messages("Hi", "Yo", videos=["a.mp4"]), "'videos' are not read"),
        (messages("a", "b", "c", target_image="red.png"), "stands beside one user message"),
        (messages("<image> in blue", target_image="x", images=["y"]), "cannot edit or combine"),
    ],
)
def test_what_is_no_dialogue_is_told(write_lines, record, says):
    source = ChatFile(path=str(write_lines("a.jsonl", [record])))
    with pytest.raises(ValueError, match=rf"^a\.jsonl:1: .*{says}"):
        source[0]


def test_a_missing_picture_names_its_line(write_lines, tmp_path):
    source = ChatFile(path=str(write_lines("a.jsonl", [llava(image="gone.png")])))
    with pytest.raises(ValueError, match=r"^a\.jsonl:1: no picture at .*gone\.png"):
        source[0]


def test_pictures_may_lie_elsewhere(write_lines, pictures):
    path = str(write_lines("lists/a.jsonl", [llava()]))
    assert colours(ChatFile(path=path, image_root=str(pictures))[0]) == [RED]
    with pytest.raises(FileNotFoundError, match="no folder at nowhere"):
        ChatFile(path=path, image_root="nowhere")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"face": "draw"}, "face must be one of"),
        ({"form": "bare"}, "form must be chat or plain"),
        ({"max_pixels": 0}, "max_pixels must be >= 1"),
        ({"fase": "und"}, "did you mean 'face'"),
    ],
)
def test_wrong_options_are_told(write_lines, options, says):
    path = str(write_lines("a.jsonl", [llava()]))
    with pytest.raises(ValueError, match=says):
        build_source("chat-jsonl", {"path": path, **options})


def test_an_index_past_the_end_is_told(write_lines):
    source = ChatFile(path=str(write_lines("a.jsonl", [messages("Hi", "Yo")])))
    assert source[-1].key == source[0].key
    with pytest.raises(IndexError, match="below the length 1"):
        source[1]
