"""Pictures in vision models: patches, and what the model is given."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from explorer_page import ExplorerError

ROUNDING = {"rtol": 1e-4, "atol": 1e-5}
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), 1.0)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.875)
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.0)
FORMS = {
    "vit": ((32, 32), HALVES, (4, 4), ["[CLS]"]),
    "deit": ((12, 8), IMAGENET, (3, 2), ["[CLS]", "[DIST]"]),
    "dinov2_with_registers": ((112, 112), IMAGENET, (16, 16), ["[CLS]", "[REG1]", "[REG2]"]),
    "clip": ((12, 12), CLIP, (3, 3), ["[CLS]"]),
}


@pytest.fixture(params=FORMS)
def model(request):
    return request.param


def pixels_of(model):
    height, width = FORMS[model][0]
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def upload(page, pixels):
    height, width, _ = pixels.shape
    data = base64.b64encode(pixels.tobytes()).decode()
    [(header, _)] = page.ask("upload", height=height, width=width, pixels=data)
    return header["image"]


def test_a_models_form_is_its_size_and_its_familys_defaults(page, model):
    [(header, _)] = page.ask("models")
    [entry] = [each for each in header["models"] if each["name"] == model]
    (height, width), (mean, std, crop), _, _ = FORMS[model]
    form = entry["picture"]
    assert (form["height"], form["width"], form["crop"]) == (height, width, crop)
    assert (form["mean"], form["std"]) == (list(mean), list(std))
    assert form["family"] == model


def test_a_picture_is_patches_and_the_weights_are_the_servers(page, client, model):
    pixels = pixels_of(model)
    subject = {"model": model, "text": "", "image": upload(page, pixels)}
    [(header, _)] = page.ask("reading", **subject)
    _, (mean, std, _), (rows, columns), special = FORMS[model]
    tokens = header["tokens"]
    names = [token["text"] for token in tokens if token["is_special"]]
    assert names[: len(special)] == special
    first = len(names)
    assert header["picture"] == {"rows": rows, "columns": columns, "first": first}
    assert len(tokens) == first + rows * columns
    assert tokens[first + columns]["text"] == "1,0"

    values = (pixels / 255 - np.array(mean)) / np.array(std)
    whole = client.forward(
        pixel_values=values.astype(np.float32).transpose(2, 0, 1)[None],
        model=model,
        need_weights=True,
    )
    frames = page.ask("maps", size=64, **subject)
    for (_, arrays), expected in zip(frames, whole.attn_weights.values(), strict=True):
        if expected.shape[-1] <= 64:
            np.testing.assert_allclose(arrays["maps"], expected[0], **ROUNDING)
    [(_, head)] = page.ask("head", layer=0, head=1, **subject)
    np.testing.assert_allclose(
        head["weights"], next(iter(whole.attn_weights.values()))[0, 1], **ROUNDING
    )


def test_a_picture_is_kept_as_it_was_sent(page):
    pixels = pixels_of("vit")
    name = upload(page, pixels)
    assert name == upload(page, pixels.copy())
    [(header, _)] = page.ask("picture", image=name)
    data = np.frombuffer(base64.b64decode(header["pixels"]), np.uint8)
    np.testing.assert_array_equal(data.reshape(header["height"], header["width"], 3), pixels)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("upload", {"height": 2, "width": 2, "pixels": "AAAA"}, "expected 12 bytes; got 3"),
        ("upload", {"height": 2, "width": 2, "pixels": "*"}, "pixels: expected base64"),
        ("upload", {"height": 0, "width": 2, "pixels": ""}, "height: expected a number from 1"),
        ("reading", {"model": "vit", "text": "", "image": "0" * 64}, "choose it again"),
        ("reading", {"model": "vit", "text": "a"}, "model vit cannot be shown as text"),
        ("picture", {"image": 7}, "image: expected a text"),
    ],
)
def test_what_is_wrong_with_a_picture_is_said(page, name, fields, message):
    with pytest.raises(ExplorerError, match=message) as refused:
        page.ask(name, **fields)
    assert refused.value.status == 400


def test_pictures_of_other_sizes_and_other_models_are_refused(page):
    name = upload(page, pixels_of("vit"))
    with pytest.raises(ExplorerError, match="expected 12 x 8 pixels"):
        page.ask("reading", model="deit", text="", image=name)
    with pytest.raises(ExplorerError, match="model bert takes no pictures"):
        page.ask("reading", model="bert", text="", image=name)


def test_patches_have_a_path_and_no_words_to_be_near_to(page):
    subject = {"model": "clip", "text": "", "image": upload(page, pixels_of("clip")), "query": 4}
    *_, (header, arrays) = page.ask("path", **subject)
    assert header["tokens"] == list(range(10))
    assert arrays["points"].shape[1:] == (10, 2)
    with pytest.raises(ExplorerError, match="pictures have no words"):
        page.ask("path", anchor_x="river", anchor_y="money", **subject)
