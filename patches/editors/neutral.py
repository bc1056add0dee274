"""Sentences about nothing in particular: what a side memory must not answer to.

They stand in where a dataset brings no locality prompts, calibrate margins and thresholds, and
should be unlike most edits in content, and like them in form: questions, and statements that break
off before their end.
"""

NEUTRAL = (
    "What should I cook tonight with rice and a few vegetables?",
    "The rain stopped in the afternoon, and the children went outside.",
    "How do I keep a houseplant alive in a dark corner?",
    "She opened the window because the room had become warm.",
    "Write a short thank-you note to a colleague who helped me move.",
    "Which of the two roads is shorter if there is no traffic?",
    "To make tea, boil the water and let the leaves steep for three minutes.",
    "Who left the lights on in the kitchen?",
    "A good chair supports the back and lets the feet rest on the floor.",
    "What does it mean when a sentence ends with three dots?",
    "He counted the coins twice and put them back into the drawer.",
    "Explain in simple words why leaves fall in autumn.",
    "The meeting begins at nine, so please bring your notes.",
    "How many times a week should one water a lawn?",
    "When the bread is golden, take it out of the oven.",
    "Is it better to walk before or after lunch?",
    "The old bicycle needs new tyres and a little oil.",
    "Tell me a story about a dog that is afraid of the sea.",
    "What is the name for the soft light before sunrise?",
    "They painted the fence green, and then the gate as well.",
    "Where do people usually keep their spare keys?",
    "The list has three parts: names, dates and short remarks.",
    "Why does my computer become slow when many windows are open?",
    "Add the numbers from one to ten and write down the sum.",
    "In the evening the shop closes earlier than in summer.",
    "What kind of shoes are best for a long walk in the mountains?",
    "The train was late, but nobody on the platform complained.",
    "Can you give me an example of a polite way to say no?",
    "A quiet place, a cup of coffee and a book are enough for me.",
    "Who usually decides what is written on the first page?",
    "The first thing that I do in the morning is",
    "The letter on the table was written by",
    "My grandmother's favourite month was",
    "The shop at the corner of our street is owned by",
    "The best place to rest after a long day is",
    "The song that everybody knows was sung by",
    "Our neighbour's youngest daughter plays the",
    "The name of the cat that sleeps on the sofa is",
    "The building behind the station was made of",
    "The language that is spoken in this room is",
)
