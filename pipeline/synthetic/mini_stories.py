"""Small stories of our own, with slots: four sentences, an ending that follows and one that does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.synthetic.sentences import MEN, WOMEN
from pipeline.synthetic.stories import Story

if TYPE_CHECKING:
    import random

# hero and friend are names, {she} and {her} are the hero's pronouns, as in sentences.py.
PLOTS = (
    (
        "{hero} planted a row of beans behind the house.",
        "It did not rain for the whole of May.",
        "Every evening {she} carried water from the river.",
        "In July the plants were taller than the fence.",
        "{hero} picked a full basket of beans.",
        "{hero} had never owned a garden.",
    ),
    (
        "{hero} lost {her} only key on the way to work.",
        "{she_} looked under every bench in the park.",
        "A small boy held something shiny in his hand.",
        "He asked whether anybody missed a key.",
        "{hero} thanked the boy and went home happy.",
        "{hero} was sorry that the key was still lost.",
    ),
    (
        "{hero} wanted to learn to swim before the summer.",
        "{friend} offered to teach {them} every Sunday.",
        "At first {she} was afraid of the deep water.",
        "After two months {she} could cross the lake alone.",
        "{hero} was proud of what {she} had learned.",
        "{hero} still could not swim at all.",
    ),
    (
        "{hero} baked a cake for {friend}.",
        "{she_} forgot to look at the clock.",
        "Black smoke came out of the oven.",
        "The cake was as hard as a stone.",
        "{hero} had to buy a cake at the bakery.",
        "Everybody praised the soft and sweet cake.",
    ),
    (
        "{hero} worked on the ferry that crossed the bay.",
        "One night the fog was thicker than ever.",
        "The captain could not see the harbour any more.",
        "{hero} rang the bell until the people on the shore answered.",
        "The ferry found its way by the sound.",
        "The sun was so bright that nobody needed the bell.",
    ),
    (
        "{hero} found an old violin in the attic.",
        "Two of its strings were broken.",
        "{friend} knew a man who mended instruments.",
        "He put on new strings and polished the wood.",
        "{hero} played a song on it that evening.",
        "{hero} threw the useless drum away.",
    ),
    (
        "{hero} had been saving money for a bicycle.",
        "There were a hundred coins in the jar.",
        "{she_} carried the jar to the shop in the village.",
        "The owner counted the coins and smiled.",
        "{hero} rode home on a new bicycle.",
        "{hero} walked home with the empty jar and no bicycle.",
    ),
    (
        "The snow began to fall before breakfast.",
        "By noon the road to the school was closed.",
        "{hero} was told to stay at home.",
        "{she_} built a snowman with {friend}.",
        "They played outside until it was dark.",
        "They sat in the classroom the whole day.",
    ),
)


def mini_stories(rng: random.Random, num_stories: int) -> list[Story]:
    """Stories of all plots in turn, with names drawn anew."""
    stories = []
    for number in range(num_stories):
        (names, pronouns), (others, _) = rng.sample([(WOMEN, _SHE), (MEN, _HE)], 2)
        slots = {"hero": rng.choice(names), "friend": rng.choice(others), **pronouns}
        *sentences, right, wrong = (text.format(**slots) for text in PLOTS[number % len(PLOTS)])
        stories.append(Story(f"mini-{number:03d}", tuple(sentences), right, wrong))
    return stories


_SHE = {"she": "she", "she_": "She", "her": "her", "them": "her"}
_HE = {"she": "he", "she_": "He", "her": "his", "them": "him"}
