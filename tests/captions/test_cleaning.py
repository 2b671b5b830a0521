import pytest

from t2ipal.captions.cleaning import LONGEST_WORDS, clean


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("A dog on the beach.", "A dog on the beach."),
        ("  A dog  on\tthe beach  ", "A dog on the beach"),
        ("A dog on the beach. The sun sets behind it.", "A dog on the beach."),
        ("A dog on the beach!\n\nA cat in a tree.", "A dog on the beach!"),
        ("Mr. Smith walks a dog on St. Mark's square. It rains.", "Mr. Smith walks a dog on St. Mark's square."),
        ("A dog weighs 2.5 kilograms on the scale. Good.", "A dog weighs 2.5 kilograms on the scale."),
        ('"A dog on the beach."', "A dog on the beach."),
        ("“A dog on the beach”", "A dog on the beach"),
        ("'A dog on the beach'.", "A dog on the beach."),
        ("'A dog's life on the beach'", "A dog's life on the beach"),
        ("**A dog on the beach**", "A dog on the beach"),
        ("*A dog on the beach*", "A dog on the beach"),
        ('"A dog on the beach" - a caption by me', "A dog on the beach"),
        ('"Rex" is a dog on the beach.', '"Rex" is a dog on the beach.'),
        ('"A dog on the beach. It is', "A dog on the beach."),
        ('A dog called “Rex” on the beach', 'A dog called "Rex" on the beach'),
        ("The dogs' ball on the beach", "The dogs' ball on the beach"),
        ("Great Danes play on the beach.", "Great Danes play on the beach."),
        ("Okay. A dog on the beach.", "A dog on the beach."),
        ("1. A dog on the beach.\n2. A cat in a tree.", "A dog on the beach."),
        ("- A dog on the beach", "A dog on the beach"),
        ("• A dog on the beach", "A dog on the beach"),
        ("# A dog on the beach", "A dog on the beach"),
        ("Here is a caption:\n\nA dog on the beach.", "A dog on the beach."),
        ("Here's a short caption for the photo: \"A dog on the beach.\"", "A dog on the beach."),
        ("Sure! Here is one sentence:\nA dog on the beach.", "A dog on the beach."),
        ("Certainly, A dog on the beach.", "A dog on the beach."),
        ("Caption: A dog on the beach.", "A dog on the beach."),
        ("Photo 1: A dog on the beach.", "A dog on the beach."),
        ("A scene with a dog could be:\n\"A dog on the beach.\"", "A dog on the beach."),
        ("A chair and a dog: a quiet scene.", "A chair and a dog: a quiet scene."),
        ("The photo of two dogs: one black, one white.", "The photo of two dogs: one black, one white."),
        ("A dog on the beach #dog #sun", "A dog on the beach"),
        ("A dog 🐕‍🦺 on the beach ☀️", "A dog on the beach"),
        ("A dog\u200b on\u0007 the beach\u202e", "A dog on the beach"),
        ("A dog on the beach.<|im_end|>\n<|im_start|>user\nMore", "A dog on the beach."),
        ("<|im_start|>assistant\nA dog on the beach.", "A dog on the beach."),
        ("Assistant: A dog on the beach.", "A dog on the beach."),
        ("A dog on the beach</s>", "A dog on the beach"),
        ("<think>They want a dog. I say cat.</think>\n\nA dog on the beach.", "A dog on the beach."),
    ],
)  # fmt: skip
def test_the_caption_is_found_in_an_answer(answer: str, caption: str) -> None:
    assert clean(answer) == caption


@pytest.mark.parametrize(
    "answer",
    [
        "", " \n\t ", "...", "A dog.", "🐕🐕🐕", "<think>They want a dog, so I", "<|im_end|>", "#dog #beach #sun",
        "I'm sorry, but I can't see it.", "I would be happy to help you.", "I’m excited to share a dog with you.",
        "As an AI I cannot see dogs.", "Please provide the photo of the dog.", "A dog on [name of the beach].",
        "A dog in a short sentence.", "A dog with a funny caption.", "See https://dogs.example for more dogs.",
        "{\"caption\": \"a dog on the beach\"}", "def dog(): return 'beach'; x = dog", "Here is a caption of a dog:",
        "A dog and a cat on the beach were:", " ".join(["dog"] * (LONGEST_WORDS + 1)), "D" + "o" * 300 + " and cat",
    ],
)  # fmt: skip
def test_rubbish_is_no_caption(answer: str) -> None:
    assert clean(answer) == ""


def test_an_answer_that_was_cut_off_ends_before_its_last_clause() -> None:
    assert clean("A dog runs on the beach, and the sun sets, while a", finished=False) == (
        "A dog runs on the beach, and the sun sets"
    )
    assert clean("A dog on the beach - a picture of the", finished=False) == "A dog on the beach"
    assert clean("A dog on the beach. And a cat, which", finished=False) == "A dog on the beach."
    assert clean("A dog on the beach\nAnd a cat, which", finished=False) == "A dog on the beach"
    assert clean("A dog on the beach with the", finished=False) == ""


def test_the_longest_caption_is_kept() -> None:
    text = " ".join(["dog"] * LONGEST_WORDS)
    assert clean(text) == text


@pytest.mark.parametrize("text", ["A dog on the beach.", "Two cats, one sofa", "A bus: red and old."])
def test_cleaning_again_changes_nothing(text: str) -> None:
    assert clean(clean(text)) == clean(text) == text
