"""Paraphrases of the built-in labels, and sentences that describe them."""

from recipes.data.paraphrases import taught_paraphrases

# Label: (subject, verb, noun phrase).
PHRASES = {
    "dog bark": ("a dog", "barks", "dog barking"),
    "cat meow": ("a cat", "meows", "cat meowing"),
    "rooster": ("a rooster", "crows", "cock-a-doodle-doo"),
    "hen": ("a hen", "clucks", "hen clucking"),
    "cow moo": ("a cow", "moos", "cattle mooing"),
    "sheep bleat": ("a sheep", "bleats", "sheep bleating"),
    "horse gallop": ("a horse", "gallops", "hooves galloping"),
    "horse neigh": ("a horse", "neighs", "horse neighing"),
    "pig oink": ("a pig", "oinks", "pig grunting"),
    "duck quack": ("a duck", "quacks", "duck quacking"),
    "owl hoot": ("an owl", "hoots", "owl hooting"),
    "bird chirp": ("a bird", "chirps", "birds singing"),
    "bee buzz": ("a bee", "buzzes", "bee buzzing"),
    "frog croak": ("a frog", "croaks", "frog croaking"),
    "crow caw": ("a crow", "caws", "crow cawing"),
    "wolf howl": ("a wolf", "howls", "wolf howling"),
    "car horn": ("a car", "honks", "vehicle horn honking"),
    "siren": ("a siren", "wails", "emergency vehicle siren"),
    "helicopter": ("a helicopter", "flies over", "helicopter flying"),
    "airplane": ("an airplane", "passes", "aircraft passing"),
    "car engine": ("an engine", "runs", "motor running"),
    "train": ("a train", "rolls by", "train passing"),
    "church bell": ("a church bell", "rings", "bell ringing"),
    "door": ("a door", "slams", "door closing"),
    "phone ring": ("a telephone", "rings", "telephone ringing"),
    "footsteps": ("someone", "walks", "person walking"),
    "hammer": ("a hammer", "strikes", "hammering"),
    "water splash": ("water", "splashes", "splash of water"),
    "running water": ("water", "runs", "tap running"),
    "rain": ("rain", "falls", "rain falling"),
    "wind": ("wind", "blows", "wind blowing"),
    "thunder": ("thunder", "rumbles", "thunderclap"),
    "explosion": ("a bomb", "explodes", "loud blast"),
    "gunshot": ("a gun", "fires", "gunfire"),
    "laughter": ("a person", "laughs", "people laughing"),
    "cough": ("a man", "coughs", "person coughing"),
    "scream": ("a woman", "screams", "person screaming"),
    "whistle": ("a whistle", "blows", "whistling"),
    "drum": ("a drum", "beats", "drum beat"),
    "guitar": ("a guitar", "plays", "guitar strumming"),
    "trumpet": ("a trumpet", "plays", "trumpet playing"),
    "speech": ("a person", "speaks", "man or woman talking"),
    "applause": ("a crowd", "claps", "people clapping"),
    "alarm": ("an alarm", "beeps", "alarm beeping"),
}


def paraphrases(label: str) -> tuple[str, ...]:
    """Return the label, followed by its paraphrases, if any are known."""
    words = []
    if label in PHRASES:
        subject, verb, noun = PHRASES[label]
        words = [noun, f"{subject} {verb}" if subject[:2] in ("a ", "an") else noun]
    return tuple(dict.fromkeys([label, *words, *taught_paraphrases(label)]))


def caption_of(label: str) -> str:
    """Return a sentence for an event of a label, such as `a dog barks`; the label itself if none is known."""
    return " ".join(PHRASES[label][:2]) if label in PHRASES else label
