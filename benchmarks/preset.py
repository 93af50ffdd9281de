"""Which system prompt and sampling make the default model answer plain questions best.

    python benchmarks/preset.py [MODEL]

Asks 60 questions with known answers under each combination and counts replies that contain the answer.
"""

import itertools
import sys

from herd.cli.common import open_model
from herd.engine.open import open_engine
from herd.engine.request import Request, SamplingParams
from herd.text.messages import Message
from herd.weights.local import DEFAULT_MODEL

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "China": "Beijing",
    "England": "London", "Russia": "Moscow", "Egypt": "Cairo", "Greece": "Athens", "Portugal": "Lisbon",
    "Canada": "Ottawa", "Australia": "Canberra", "India": "Delhi", "Norway": "Oslo",
}  # fmt: skip
QUESTIONS = [(f"What is the capital of {country}?", city) for country, city in CAPITALS.items()] + [
    ("How many days are in a week?", "seven|7"), ("How many months are in a year?", "twelve|12"),
    ("How many legs does a spider have?", "eight|8"), ("How many hours are in a day?", "24|twenty-four"),
    ("How many minutes are in an hour?", "60|sixty"), ("How many sides does a triangle have?", "three|3"),
    ("What is 2 + 2?", "4|four"), ("What is 10 divided by 2?", "5|five"), ("What is 3 times 3?", "9|nine"),
    ("What color is the sky on a clear day?", "blue"), ("What color is grass?", "green"),
    ("What color do you get when you mix red and yellow?", "orange"), ("What color is a ripe banana?", "yellow"),
    ("What is the largest planet in the solar system?", "jupiter"),
    ("Which planet is known as the Red Planet?", "mars"), ("Which planet is closest to the Sun?", "mercury"),
    ("What star is at the center of our solar system?", "sun"), ("What is the largest ocean on Earth?", "pacific"),
    ("What is the tallest mountain on Earth?", "everest"), ("What is the longest river in Africa?", "nile"),
    ("What is the chemical symbol for water?", "h2o|h₂o"), ("What gas do plants absorb from the air?", "carbon dioxide|co2"),
    ("What gas do humans need to breathe?", "oxygen"), ("At what temperature in Celsius does water boil?", "100"),
    ("At what temperature in Celsius does water freeze?", "0|zero"), ("What is frozen water called?", "ice"),
    ("Who wrote Romeo and Juliet?", "shakespeare"), ("Who painted the Mona Lisa?", "leonardo|vinci"),
    ("Who developed the theory of relativity?", "einstein"), ("Who was the first president of the United States?", "washington"),
    ("Who discovered gravity when an apple fell?", "newton"), ("Who was the first person to walk on the Moon?", "armstrong"),
    ("What animal is known as man's best friend?", "dog"), ("What animal says meow?", "cat"),
    ("What is a baby dog called?", "pup"), ("What do bees make?", "honey"), ("What do cows drink as adults?", "water"),
    ("What language is spoken in Brazil?", "portuguese"), ("What language is spoken in Mexico?", "spanish"),
    ("What is the opposite of hot?", "cold"), ("What is the opposite of up?", "down"), ("What is the opposite of big?", "small|little"),
    ("What organ pumps blood through the body?", "heart"), ("What do we call the force that pulls objects to the ground?", "gravity"),
    ("On which continent is Egypt?", "africa"),
]  # fmt: skip
SYSTEMS = {
    "none (the template's own)": None,
    "helpful": "You are a helpful assistant.",
    "concise": "You are a helpful assistant. Answer briefly and correctly.",
}
SAMPLINGS = [(0.0, 1.0), (0.1, 0.9), (0.2, 0.9), (0.6, 0.9)]


def main() -> None:
    """Print the table."""
    checkpoint = open_model(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_MODEL)
    form = checkpoint.chat_format()
    print(f"{len(QUESTIONS)} questions\n\n| system prompt | temperature | top_p | right |\n|---|---|---|---|")
    with open_engine(checkpoint) as engine:
        for (label, system), (temperature, top_p) in itertools.product(SYSTEMS.items(), SAMPLINGS):
            requests = []
            for i, (question, _) in enumerate(QUESTIONS):
                messages = [Message("system", system)] if system else []
                prompt = form.encode([*messages, Message("user", question)]).tokens
                params = SamplingParams(temperature=temperature, top_p=top_p, max_tokens=48, seed=i)
                requests.append(Request(prompt=prompt, params=params, id=str(i)))
            replies = dict.fromkeys(range(len(QUESTIONS)), "")
            for event in engine.generate(requests):
                replies[int(event.request)] += event.text
            right = sum(
                any(answer in replies[i].lower() for answer in answers.lower().split("|"))
                for i, (_, answers) in enumerate(QUESTIONS)
            )
            print(f"| {label} | {temperature} | {top_p} | {right} |", flush=True)


if __name__ == "__main__":
    main()
