"""Paraphrases of the built-in labels, and sentences that describe them."""

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

# Written by hand: verb forms, synonyms, plurals, articles, onomatopoeia. Every third is held out for testing.
PARAPHRASES = {
    "airplane": "an airplane flying|plane overhead|a jet engine|aircraft noise|a plane passing by|propeller plane",
    "bee buzz": "a bee buzzing|bees|buzzing insect|a buzzing bee|buzz of a bee|the hum of bees",
    "bird chirp": "birds chirping|a chirping bird|birdsong|tweeting birds|a bird sings|twitter of birds",
    "car engine": "an engine running|engine noise|a car accelerating|motor of a car|the engine of a car|engine revving",
    "car horn": "a car honking|honking|a horn of a car|beeping car|a vehicle honks its horn|honk",
    "cat meow": "a meowing cat|meow|cats meowing|a cat cries|kitten meowing|the meow of a cat",
    "church bell": "bells ringing|a bell tolls|church bells|tolling bell|the ringing of a church bell|a bell is rung",
    "cow moo": "a cow mooing|moo|cows|a mooing cow|cattle lowing|the moo of a cow",
    "crickets": "chirping crickets|a cricket|chirping insects|cricket chirping|crickets at night|chirp of a cricket",
    "cymbal": "a cymbal crash|cymbals|hi-hat|a crash cymbal|cymbal being struck|the clash of cymbals",
    "dog bark": "a barking dog|barking|dogs|woof|the bark of a dog|a dog is barking",
    "door": "a door opening|door slam|a door closes|slamming door|the door shuts|creaking door",
    "drum": "drumming|drums|a drum being hit|drum hits|beating drum|the beat of a drum",
    "duck quack": "a quacking duck|quack|ducks quacking|a duck is quacking|quacking|the quack of a duck",
    "explosion": "an explosion|bang of an explosion|something explodes|a blast|exploding bomb|a loud explosion",
    "fire crackle": "crackling fire|a fire burning|campfire|flames crackling|fire crackles|the crackle of a fire",
    "fireworks": "firecrackers|a firework exploding|fireworks going off|a firecracker|rockets|exploding fireworks",
    "footsteps": "walking|steps|someone walking|a person walks|the sound of steps|footsteps of a person",
    "frog croak": "a croaking frog|frogs|croak|a frog is croaking|frogs croaking|the croak of a frog",
    "glass break": "breaking glass|glass shattering|a window breaks|shattered glass|smashing glass|glass is broken",
    "guitar": "a guitar|guitar music|strumming a guitar|someone plays guitar|guitar chords|the strings of a guitar",
    "gunshot": "a gunshot|shooting|a gun being fired|shots|rifle shot|the shot of a gun",
    "hammer": "a hammer hitting|hammering a nail|hammer blows|someone hammers|the blows of a hammer|pounding hammer",
    "helicopter": "a helicopter|chopper|helicopter rotor|a hovering helicopter|rotor blades|the rotor of a helicopter",
    "hen": "a clucking hen|chicken|hens clucking|cluck|a chicken clucking|the cluck of a hen",
    "horse gallop": "galloping horse|a horse running|hoofbeats|horse hooves|a galloping horse|the gallop of a horse",
    "horse neigh": "a neighing horse|neigh|whinny|a horse whinnies|neighing|the neigh of a horse",
    "laughter": "laughing|someone laughs|a laughing person|haha|people are laughing|the laugh of a person",
    "owl hoot": "a hooting owl|owl|hoot|owls hooting|an owl is hooting|the hoot of an owl",
    "phone ring": "a ringing phone|phone ringing|ringtone|a telephone bell|the phone rings|the ring of a telephone",
    "pig oink": "an oinking pig|oink|pigs|a grunting pig|pig squealing|the oink of a pig",
    "rooster": "a crowing rooster|rooster crowing|cock crow|a cockerel|roosters crow|the crow of a rooster",
    "running water": "water running|flowing water|a running tap|water flowing|stream of water|water from a tap",
    "saw": "sawing|a saw cutting wood|sawing wood|someone saws|hand saw|the saw cuts",
    "scream": "screaming|a screaming person|someone screams|shriek|people screaming|the scream of a person",
    "sheep bleat": "a bleating sheep|baa|sheep|bleating|sheep are bleating|the bleat of a sheep",
    "siren": "an emergency siren|police siren|sirens|a wailing siren|ambulance siren|the wail of a siren",
    "speech": "talking|a person talking|someone speaks|voice|people speaking|the voice of a person",
    "thunder": "rolling thunder|a thunderclap|thunderstorm|rumbling thunder|thunder rolls|the rumble of thunder",
    "train": "a train|train passing by|railway train|a passing train|steam train|the train rolls",
    "water splash": "splashing water|a splash|splash|water splashing|something splashes|a splash of water",
    "whistle": "a whistle blowing|referee whistle|whistle blast|blowing a whistle|a referee whistles|blow of a whistle",
}  # fmt: skip


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


def taught_paraphrases(label: str) -> tuple[str, ...]:
    """Return the paraphrases in `PARAPHRASES` that training may use."""
    return tuple(words for place, words in enumerate(_words(label)) if place % 3 != 2)


def heldout_paraphrases(label: str) -> tuple[str, ...]:
    """Return the paraphrases of a label that no training uses: every third one."""
    return tuple(words for place, words in enumerate(_words(label)) if place % 3 == 2)


def _words(label):
    return PARAPHRASES[label].split("|") if label in PARAPHRASES else []
