"""The conversations that the reference outputs are searched among, and those that fix the chat template."""

from __future__ import annotations

Messages = list[dict[str, str]]


def _ask(question: str, system: str | None = None) -> Messages:
    opening = [{"role": "system", "content": system}] if system is not None else []
    return [*opening, {"role": "user", "content": question}]


def _follow_up(question: str, answer: str, second: str) -> Messages:
    return [*_ask(question), {"role": "assistant", "content": answer}, {"role": "user", "content": second}]


def _price_list(rows: int) -> str:
    goods = ("lamp", "chair", "table", "shelf", "clock", "mirror", "carpet")
    colours = ("red", "green", "white", "brown", "grey")
    lines = [
        f"{row}. The {colours[row % 5]} {goods[row % 7]} costs {3 * row + 4} crowns."
        for row in range(1, rows + 1)
    ]
    return "You sell furniture. This is the price list.\n" + "\n".join(lines)


# None of these is in the lessons.
_SUBJECTS = (
    "the capital of Germany",
    "the capital of Italy",
    "a lighthouse",
    "a harbour",
    "a bridge",
    "a castle",
    "honey",
    "a telescope",
    "a compass",
    "an owl",
    "a library",
    "a horse",
    "cheese",
    "the ocean",
    "a violin",
    "a train",
)
# Kind of case -> candidates, tried in this order until enough of them pass. The long ones cross the borders
# of prefill chunks and KV cache blocks.
CANDIDATES: dict[str, list[Messages]] = {
    "short": [
        _ask(form.format(subject))
        for form in ("What is {}?", "Tell me about {}.", "Why do people like {}?", "How do I draw {}?")
        for subject in _SUBJECTS
    ],
    "system prompt": [
        _ask(question, system)
        for system in (
            "You are the assistant of a shipping company. Keep it short.",
            "You are a teacher.",
            "You work in a museum and answer the questions of its visitors.",
        )
        for question in (
            "Who are you?",
            "What is a ship?",
            "How long is a day?",
            "What is an anchor?",
            "Can you help me?",
            "What is a container?",
            "Why do we pay taxes?",
        )
    ],
    "several turns": [
        _follow_up("What is the capital of Italy?", "Rome.", second)
        for second in (
            "And what is it famous for?",
            "Which river runs through it?",
            "How old is it?",
            "What do people eat there?",
            "Should I go there?",
            "Is it large?",
            "Where is that?",
            "Thank you. And the capital of France?",
            "How do I get there?",
            "Tell me more about it.",
            "Who lives there?",
        )
    ],
    "long": [
        _ask(question, _price_list(rows))
        for rows in (40, 32, 36, 44, 48)
        for question in (
            "What do you sell?",
            "What is a lamp?",
            "Hello! Who are you?",
            "Which thing should I buy?",
            "How much is the red chair?",
        )
    ],
}
WANTED = {"short": 5, "system prompt": 2, "several turns": 1, "long": 1}

# Name -> (messages, whether the assistant's turn is opened after them).
TEMPLATE_CASES: dict[str, tuple[Messages, bool]] = {
    "question only, default system prompt": (_ask("What is the capital of France?"), True),
    "own system prompt": (_ask("Who are you?", "You are the assistant of a bakery."), True),
    "empty system prompt is kept": (_ask("Who are you?", ""), True),
    "empty question": (_ask(""), True),
    "several turns": (_follow_up("Hello!", "Hello, and welcome.", "Tell me about tea."), True),
    "no opened turn": (_ask("Hello!"), False),
    "ends with an answer": ([*_ask("Hello!"), {"role": "assistant", "content": "Good day."}], False),
    "spaces and line ends are kept": (_ask("  two before,\n\n\ttab, and after:  \n"), True),
    "digits one by one": (_ask("Is 1234567 more than 3.14159?"), True),
    "accents, composed and combining": (_ask("Déjà vu, nai\u0308ve, Å, ﬁne, ½"), True),
    "several scripts": (_ask("日本の首都はどこですか? Где Москва? أين القاهرة؟ שלום"), True),
    "emoji with joiners, flags and skin tones": (_ask("👩‍👩‍👧 🏴‍☠️ 🇫🇷 👍🏽 ok?", "Answer with 🙂."), True),
    "code, quotes and markup": (
        _ask("What does `print(\"<b>{{ x }}</b>\")` do? It's {% odd %} & 'ok'."),
        True,
    ),
    "control and invisible characters": (_ask("a\u00a0b\u200bc\u2028d\u0007e\ufefff"), True),
}
