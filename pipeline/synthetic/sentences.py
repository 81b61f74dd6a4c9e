"""What the demo corpus says: English paragraphs out of a small grammar, and sentences in German, French and Spanish.

An English paragraph tells of one person: an opening, some middle sentences, an ending. Templates hold slots like
{place}; a slot is filled with one of its phrases, which may hold slots themselves.
"""

from __future__ import annotations

import re
from itertools import chain, count, islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

WOMEN = (
    "Amelia", "Beatrice", "Clara", "Dorothy", "Eleanor", "Florence", "Grace", "Harriet", "Isabel", "Josephine",
    "Lydia", "Margaret", "Nora", "Olive", "Priscilla", "Rosemary", "Sylvia", "Theresa", "Victoria", "Winifred",
)  # fmt: skip
MEN = (
    "Albert", "Benjamin", "Charles", "Daniel", "Edward", "Frederick", "George", "Henry", "Julian", "Kenneth",
    "Lawrence", "Martin", "Nicholas", "Oliver", "Patrick", "Raymond", "Samuel", "Thomas", "Vincent", "Walter",
)  # fmt: skip
# Templates are written with the pronouns of SHE.
SHE = {"she": "she", "her": "her", "them": "her", "herself": "herself"}
HE = {"she": "he", "her": "his", "them": "him", "herself": "himself"}

OPENINGS = (
    "{hero} had lived {home} for {number} years before anything unusual happened.",
    "Every {weekday}, {hero} walked {along} to {building}.",
    "{time}, {hero} set out for {building} with a {trait} {tool} under {her} arm.",
    "When {hero} was {number} years old, {her} {relative} taught {them} how to {skill}.",
    "Nobody in the village knew {building} as well as {hero} did.",
    "{hero} worked as a {profession} in a small town {region}.",
    "{time}, {hero} was already waiting {place}.",
    "{weather}, so {hero} decided to stay at home and {skill}.",
    "The first thing {hero} noticed {place} was a {trait} {tool}.",
    "Have you ever heard how {hero} learned to {skill}?",
    "There is a story about {hero} that the {profession} still tells on long {season} evenings.",
    "{hero} came from a family of {professions}, but {she} wanted to {skill}.",
    "Last {season}, {hero} rented a room above {building}.",
    "{hero} found a {trait} {tool} {place}, and {she} wondered who had lost it.",
)

MIDDLES = (
    "{weather}, and the path {along} was hard to follow.",
    "{time}, {she} met a {mood} {profession} who was looking for a {trait} {tool}.",
    "{she} carried {number} {baskets} of {food} {along}.",
    "The {profession} asked {them} to {chore} before the end of the {season}.",
    "Did {she} really believe that the {profession} could {skill}?",
    "{animal} slept {place} and did not mind the noise at all.",
    "{her} {relative} used to say that {proverb}.",
    "For {number} days {she} tried to {chore}, and for {number} days {she} failed.",
    "{she} opened the door {manner} and saw a {trait} {tool} on the table.",
    "On the shelf stood a {trait} {tool}, {number} {vessels} and a jar of {food}.",
    "Between {building} and {building} there was a garden full of {plants}.",
    "The {plants} {place} had grown taller than the fence.",
    "{she} bought some {food} from the {profession} and ate it {place}.",
    "After supper, the {profession} told {them} a long story about {animal}.",
    "What could {she} do with a {trait} {tool} and only {number} coins?",
    "{she} looked {manner} at the {tool}, turned it over twice and put it back.",
    "The {profession} shook hands with the {profession}, and both of them laughed {manner}.",
    "From the window {she} could see {sight} and, further away, {sight}.",
    "In the {season}, the whole street smelled of {food} and {plants}.",
    "{number} children were playing {place} while {her} {relative} tried to {chore}.",
    "If {she} wanted to {skill}, {she} would need a better {tool}.",
    "The {profession} answered {manner} that {proverb}.",
    "{she} wrote a short letter to {her} {relative} and asked about the {animals}.",
    "A train passed {place}, and for a moment nobody could hear the {profession}.",
    "{she} had never seen {sight} before, and {she} stood there for {number} minutes.",
    "{weather}, but the {profession} went on working {manner}.",
    "At {building}, people were talking about {sight}.",
    "{she} knew that {proverb}, yet {she} hurried {along} all the same.",
    "Somebody had left a {trait} {tool} {place}.",
    "The old clock in {building} struck {number}, and the {animals} began to stir.",
    "Why was the {profession} always so {mood} in the {season}?",
    "{she} washed the {vessels}, swept the floor and lit a small fire.",
    "{time}, {animal} followed {them} all the way to {building}.",
    "The soup was made of {food}, {food} and a little salt.",
    "{she} was {mood} at first, but the {profession} was kind and patient.",
    "{her} {relative} had promised to {chore}, but there was never enough time.",
    "Most {professions} would have given up, and {she} nearly did.",
    "The road turned left {place} and then climbed towards {sight}.",
    "{she} counted the {animals} {manner}: there were {number} of them.",
    "They shared the {food}, and the {profession} sang a song about {sight}.",
    "A {weekday} like this one was perfect for learning to {skill}.",
    "The {tool} was {trait}, but the {profession} liked it very much.",
)

ENDINGS = (
    "{time}, {she} walked home {along}, tired but content.",
    "In the end, {hero} gave the {tool} to the {profession} and kept the {food} for {herself}.",
    "Since that {weekday}, {hero} has never again tried to {chore} alone.",
    "{she} smiled, because {proverb} after all.",
    "When the {season} was over, {she} could {skill} better than any {profession}.",
    "And that is how {hero} came to own a {trait} {tool}.",
    "By the following {weekday}, the whole town had heard about it.",
    "{hero} closed the door of {building} and went to sleep {manner}.",
    "Perhaps the {profession} was right, thought {hero}, and {proverb}.",
    "{she} promised {her} {relative} to come back next {season}.",
    "Nobody ever found out who had left the {tool} {place}.",
    "{number} years later, {she} still remembered {sight}.",
)

PHRASES: dict[str, tuple[str, ...]] = {
    "home": (
        "in a cottage near the sea", "above a bicycle shop", "in the house with the green door", "on a narrow boat",
        "beside the railway line", "at the top of a steep hill", "in a flat with three windows", "behind the church",
        "on the last farm in the valley", "next to a noisy printing house",
    ),
    "region": (
        "in the north of the country", "on the western coast", "at the foot of the mountains", "close to the border",
        "beside a wide river", "on a windy island", "in the middle of the plains", "two hours from the capital",
        "surrounded by orchards", "at the edge of the moor",
    ),
    "number": (
        "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "fourteen",
        "fifteen", "seventeen", "twenty", "twenty five", "thirty", "forty",
    ),
    "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "season": ("spring", "summer", "autumn", "winter"),
    "time": (
        "early in the morning", "just after sunrise", "late in the afternoon", "shortly before noon", "at dusk",
        "around midnight", "on the first day of {season}", "in the middle of {season}", "long before breakfast",
        "towards the end of the week", "on a quiet {weekday}", "an hour before the market opened", "after dinner",
        "while the town was still asleep", "at the beginning of the holidays", "one evening in {season}",
        "as soon as the rain had stopped", "on the way back from work",
    ),
    "along": (
        "along the river", "through the narrow streets", "across the empty square", "down the hill", "over the bridge",
        "past the lighthouse", "around the lake", "through the wet grass", "along the old city wall",
        "between the apple trees", "up the winding stairs", "across the frozen fields", "past the fire station",
        "through the tunnel", "along the canal", "over the sand dunes",
    ),
    "place": (
        "by the harbour", "behind the old mill", "near the railway station", "under the stone bridge",
        "at the edge of the forest", "in front of the theatre", "beside the fountain", "in the attic",
        "on the kitchen floor", "at the bus stop", "in the shade of a chestnut tree", "under the staircase",
        "on the roof of the barn", "in the corner of the yard", "next to the pharmacy", "at the end of the pier",
        "outside the bakery", "beneath the window", "between two empty barrels", "on the muddy bank of the river",
        "in the waiting room", "close to the campfire", "at the crossroads", "inside the greenhouse",
    ),
    "building": (
        "the library", "the town hall", "the bakery", "the post office", "the observatory", "the harbour office",
        "the village school", "the museum", "the blacksmith's workshop", "the grocery store", "the concert hall",
        "the old hotel", "the laundry", "the veterinary clinic", "the boat house", "the bookshop", "the power station",
        "the flower market", "the courthouse", "the little cinema", "the weather station", "the dairy",
    ),
    "weather": (
        "the wind had turned cold", "a thin fog lay over the river", "rain was drumming on the roof",
        "the sun shone brightly", "dark clouds gathered above the hills", "it had been snowing since dawn",
        "thunder rolled in the distance", "the air was warm and heavy", "frost covered the windows",
        "a storm was coming from the sea", "the sky was as clear as glass", "mist rose from the meadows",
        "it was the hottest day of the year", "the puddles had frozen overnight", "a light breeze moved the curtains",
    ),
    "trait": (
        "rusty", "wooden", "heavy", "tiny", "faded", "borrowed", "broken", "painted", "forgotten", "silver", "leather",
        "strange", "beautiful", "expensive", "dusty", "handmade", "striped", "crooked", "ancient", "enormous",
        "shiny", "second hand", "purple", "dented", "foreign", "polished", "plain", "golden",
    ),
    "tool": (
        "lantern", "compass", "umbrella", "suitcase", "telescope", "hammer", "violin", "notebook", "kettle", "ladder",
        "mirror", "typewriter", "fishing rod", "bicycle pump", "pocket watch", "camera", "rope", "basket", "radio",
        "music box", "walking stick", "paintbrush", "map", "key", "blanket", "shovel", "wheelbarrow", "whistle",
        "globe", "toolbox", "candle holder", "accordion",
    ),
    "profession": (
        "baker", "ferryman", "teacher", "carpenter", "doctor", "gardener", "librarian", "postman", "tailor",
        "photographer", "fisherman", "clockmaker", "nurse", "engineer", "shepherd", "mechanic", "pianist", "painter",
        "beekeeper", "pilot", "journalist", "blacksmith", "cook", "astronomer", "bus driver", "lawyer", "plumber",
        "translator", "shopkeeper", "judge",
    ),
    "professions": (
        "bakers", "sailors", "teachers", "carpenters", "doctors", "gardeners", "musicians", "tailors", "farmers",
        "clockmakers", "miners", "engineers", "shepherds", "mechanics", "painters", "weavers", "printers", "lawyers",
    ),
    "relative": (
        "grandmother", "grandfather", "mother", "father", "older sister", "younger brother", "uncle", "aunt",
        "cousin", "niece", "nephew", "godmother", "neighbour", "best friend", "stepfather", "twin sister",
    ),
    "skill": (
        "play the violin", "bake dark bread", "read the stars", "repair broken clocks", "sail a small boat",
        "speak to large crowds", "draw maps by hand", "ride a horse", "knit woollen socks", "grow tomatoes",
        "build kites", "dance the tango", "write poems", "climb steep rocks", "make cheese", "take photographs",
        "swim across the lake", "carve wooden birds", "play chess", "brew strong coffee", "sing in harmony",
        "predict the weather", "fold paper animals", "solve difficult riddles",
    ),
    "chore": (
        "mend the fence", "paint the kitchen", "clean the chimney", "chop the firewood", "feed the chickens",
        "fix the leaking roof", "deliver the parcels", "count the money", "sharpen the knives", "water the plants",
        "carry the piano upstairs", "harvest the potatoes", "wash the curtains", "sort the old letters",
        "move the furniture", "dig a new well", "pack the boxes", "polish the windows", "empty the cellar",
        "oil the gate", "trim the hedge", "wind the clock in the tower",
    ),
    "animal": (
        "a grey cat", "an old dog", "a curious goat", "a young fox", "a lame donkey", "a family of hedgehogs",
        "a fat goose", "a white horse", "a stubborn mule", "a tame raven", "a spotted calf", "a hungry squirrel",
        "a sleepy owl", "a blind rooster", "a flock of sparrows", "a very large rabbit",
    ),
    "animals": (
        "hens", "sheep", "ducks", "horses", "pigeons", "goats", "cows", "rabbits", "swans", "dogs", "geese", "ponies",
    ),
    "food": (
        "bread", "honey", "cheese", "dried fish", "mushrooms", "roasted chestnuts", "apples", "plum cake", "onions",
        "carrots", "butter", "pears", "cinnamon", "lentils", "smoked ham", "cherries", "pumpkin", "garlic", "walnuts",
        "fresh milk", "barley", "beans", "oranges", "ginger biscuits", "cabbage",
    ),
    "baskets": ("baskets", "sacks", "boxes", "bags", "crates", "buckets", "parcels", "jars"),
    "vessels": ("cups", "plates", "bowls", "bottles", "spoons", "glasses", "teapots", "saucepans"),
    "plants": (
        "roses", "sunflowers", "nettles", "lavender bushes", "tulips", "blackberries", "daisies", "ferns", "thistles",
        "raspberries", "lilies", "young birches", "wild strawberries", "poppies",
    ),
    "mood": (
        "cheerful", "nervous", "tired", "quiet", "grumpy", "hopeful", "lonely", "serious", "anxious", "proud",
        "gloomy", "restless", "gentle", "thoughtful", "busy", "impatient",
    ),
    "manner": (
        "slowly", "carefully", "without a word", "with great patience", "in silence", "quickly", "politely",
        "with a deep sigh", "suspiciously", "quite happily", "very quietly", "with both hands in the air",
        "calmly", "with some difficulty", "for a long time", "as if nothing had happened",
    ),
    "sight": (
        "the lights of the harbour", "a row of fishing boats", "the snow on the mountains", "a circus tent",
        "the chimney of the factory", "a field of sunflowers", "two ships on the horizon", "the ruins of a castle",
        "a rainbow above the valley", "the new suspension bridge", "a hot air balloon", "the towers of the cathedral",
        "a herd of wild horses", "the windmill on the hill", "an empty football field", "the northern lights",
        "a broken carriage", "the annual boat race",
    ),
    "proverb": (
        "a good question is worth more than a quick answer", "rain never asks whether it is welcome",
        "every key was made for some door", "the longest road begins at your own gate",
        "borrowed time must be paid back as well", "a quiet dog hears the most", "nothing tastes better than hunger",
        "the river knows where it is going", "old tools remember their work", "even a small lamp can guide a ship",
        "one cannot harvest what one did not plant", "patience is the best carpenter",
        "a song makes any load lighter", "not every cloud brings a storm", "those who listen learn twice",
        "a borrowed coat is never quite warm", "the wind carries only light words",
    ),
}  # fmt: skip

SENTENCES: dict[str, tuple[str, ...]] = {
    "de": (
        "Heute Morgen lag dichter Nebel über dem Fluss, und man konnte die Brücke kaum sehen.",
        "Meine Großmutter backt jeden Samstag einen Kuchen mit Äpfeln aus dem eigenen Garten.",
        "Der Zug nach Hamburg fährt leider erst in zwanzig Minuten ab.",
        "Wenn es morgen nicht regnet, wollen wir mit den Fahrrädern um den See fahren.",
        "Der alte Uhrmacher schloss seine Werkstatt nie vor acht Uhr abends.",
        "Weißt du vielleicht, wo ich meinen Schlüssel gelassen habe?",
        "Die Kinder sammelten Kastanien und bauten daraus kleine Tiere.",
        "Im Winter ist es auf dem Berg so still, dass man den Schnee fallen hört.",
        "Er hat drei Jahre lang als Gärtner in einem Kloster gearbeitet.",
        "Auf dem Markt kaufte sie Brot, Käse und ein Glas Honig.",
        "Niemand wusste, warum der Leuchtturm seit gestern dunkel war.",
        "Unser Nachbar spielt jeden Abend Klavier, und wir hören ihm gerne zu.",
        "Das Museum zeigt zurzeit eine Ausstellung über alte Landkarten.",
        "Ich möchte bitte eine Tasse Kaffee ohne Zucker und ein Stück Kuchen.",
        "Nach dem Gewitter roch der ganze Wald nach Erde und Harz.",
        "Die Lehrerin schrieb eine schwierige Aufgabe an die Tafel und lächelte.",
        "Früher brauchte ein Brief von hier bis zur Küste eine ganze Woche.",
        "Der Hund schläft am liebsten direkt vor dem warmen Ofen.",
        "Wir haben uns lange nicht gesehen, aber sie hat sich gar nicht verändert.",
        "Am Bahnhof wartete ein Mann mit einem großen grünen Koffer.",
        "Könnten Sie mir bitte sagen, wie ich zum Rathaus komme?",
        "Das kleine Boot schaukelte die ganze Nacht im Hafen hin und her.",
        "Zum Geburtstag wünschte er sich nichts außer einem ruhigen Tag am Meer.",
        "Die Bäckerei an der Ecke öffnet schon um halb sechs.",
        "Mein Bruder hat gelernt, wie man eine Geige repariert.",
        "Vor dem Fenster blühen seit einer Woche die ersten Tulpen.",
        "Die Straße war gesperrt, deshalb mussten wir einen Umweg durch das Dorf machen.",
        "Sie las das Buch in einer einzigen Nacht und fing am Morgen noch einmal von vorne an.",
        "Im Keller fanden wir eine Kiste voller Briefe und vergilbter Fotografien.",
        "Wer früh aufsteht, hat den schönsten Teil des Tages für sich allein.",
    ),
    "fr": (
        "Ce matin, le brouillard couvrait toute la vallée et l'on ne voyait plus le clocher.",
        "Ma tante prépare chaque dimanche une tarte aux pommes pour tous les voisins.",
        "Le train pour Lyon partira avec une demi-heure de retard.",
        "S'il fait beau demain, nous irons marcher au bord de la mer.",
        "Le vieux boulanger se lève toujours avant le soleil.",
        "Sais-tu où j'ai posé mes lunettes hier soir ?",
        "Les enfants ont construit une cabane dans le grand chêne du jardin.",
        "En hiver, le village est si calme que l'on entend tomber la neige.",
        "Il a travaillé pendant six ans comme jardinier dans un château.",
        "Au marché, elle a acheté du fromage, des poires et un bouquet de lavande.",
        "Personne ne savait pourquoi la lumière du phare s'était éteinte.",
        "Notre voisine joue du violon tous les soirs, et nous l'écoutons avec plaisir.",
        "Le musée présente en ce moment une exposition sur les cartes anciennes.",
        "Je voudrais un café sans sucre et un petit morceau de gâteau, s'il vous plaît.",
        "Après l'orage, la forêt sentait la terre mouillée et les champignons.",
        "La maîtresse écrivit une question difficile au tableau, puis elle sourit.",
        "Autrefois, une lettre mettait une semaine entière pour arriver jusqu'à la côte.",
        "Le chat dort toujours sur le fauteuil près de la cheminée.",
        "Nous ne nous étions pas vus depuis longtemps, mais elle n'avait pas changé.",
        "Un homme attendait sur le quai avec une énorme valise verte.",
        "Pourriez-vous me dire comment aller à la mairie ?",
        "La petite barque a dansé toute la nuit sur les vagues du port.",
        "Pour son anniversaire, il ne voulait rien d'autre qu'une journée tranquille.",
        "La pharmacie au coin de la rue ouvre à huit heures et quart.",
        "Mon frère a appris à réparer des horloges chez un artisan de la ville.",
        "Devant la fenêtre, les premières tulipes fleurissent depuis une semaine.",
        "La route était fermée, alors nous avons traversé le village à pied.",
        "Elle a lu le roman en une seule nuit et l'a recommencé le lendemain.",
        "Dans le grenier, nous avons trouvé une boîte pleine de vieilles photographies.",
        "Celui qui se lève tôt garde pour lui la plus belle heure du jour.",
    ),
    "es": (
        "Esta mañana la niebla cubría todo el valle y no se veía la torre de la iglesia.",
        "Mi abuela prepara todos los domingos una sopa de pescado para la familia.",
        "El tren a Sevilla saldrá con veinte minutos de retraso.",
        "Si mañana hace buen tiempo, iremos a caminar por la orilla del lago.",
        "El viejo relojero nunca cerraba su taller antes de las ocho de la noche.",
        "¿Sabes dónde dejé ayer las llaves de la casa?",
        "Los niños construyeron una cabaña entre las ramas del nogal.",
        "En invierno el pueblo está tan callado que se oye caer la nieve.",
        "Trabajó durante siete años como jardinero en un convento.",
        "En el mercado compró queso, naranjas y un frasco de miel.",
        "Nadie sabía por qué el faro llevaba dos noches apagado.",
        "Nuestra vecina toca la guitarra cada tarde, y nosotros la escuchamos desde el balcón.",
        "El museo muestra este mes una colección de mapas antiguos.",
        "Quisiera un café sin azúcar y un trozo pequeño de tarta, por favor.",
        "Después de la tormenta, el bosque olía a tierra mojada.",
        "La maestra escribió una pregunta difícil en la pizarra y sonrió.",
        "Antes, una carta tardaba una semana entera en llegar hasta la costa.",
        "El perro prefiere dormir delante de la chimenea.",
        "Hacía mucho tiempo que no nos veíamos, pero ella no había cambiado nada.",
        "Un hombre esperaba en el andén con una enorme maleta verde.",
        "¿Podría decirme cómo llegar al ayuntamiento?",
        "La pequeña barca se balanceó toda la noche en el puerto.",
        "Para su cumpleaños no quería nada más que un día tranquilo junto al mar.",
        "La panadería de la esquina abre a las seis y media.",
        "Mi hermano aprendió a reparar violines con un artesano de la ciudad.",
        "Delante de la ventana florecen desde hace una semana los primeros tulipanes.",
        "La carretera estaba cortada, así que cruzamos el pueblo a pie.",
        "Leyó la novela en una sola noche y a la mañana siguiente volvió a empezarla.",
        "En el sótano encontramos una caja llena de cartas y fotografías amarillentas.",
        "Quien madruga tiene para sí la hora más hermosa del día.",
    ),
}

_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeiou])")


def paragraphs(language: str, rng: random.Random) -> Iterator[list[str]]:
    """Endless paragraphs of 5 to 9 sentences; `language` is en, de, fr or es.

    No English sentence comes twice; those of the other languages repeat once all have been said.
    """
    if language == "en":
        said: set[str] = set()
        while True:
            yield _english_paragraph(rng.randint(5, 9), rng, said)
    sentences = SENTENCES[language]
    deck = chain.from_iterable(rng.sample(sentences, len(sentences)) for _ in count())
    while True:
        yield list(islice(deck, rng.randint(5, 9)))


def _english_paragraph(num_sentences: int, rng: random.Random, said: set[str]) -> list[str]:
    names, pronouns = rng.choice([(WOMEN, SHE), (MEN, HE)])
    hero = {"hero": rng.choice(names), **pronouns}
    parts = [OPENINGS, *[MIDDLES] * (num_sentences - 2), ENDINGS]
    paragraph: list[str] = []
    templates: set[str] = set()
    for part in parts:
        while True:
            template = rng.choice(part)
            sentence = _english_sentence(template, hero, rng)
            if template not in templates and sentence not in said:
                break
        templates.add(template)
        said.add(sentence)
        paragraph.append(sentence)
    return paragraph


def _english_sentence(template: str, hero: dict[str, str], rng: random.Random) -> str:
    used: set[str] = set()  # no phrase twice in one sentence

    def fill(slot: re.Match[str]) -> str:
        if slot[1] in hero:
            return hero[slot[1]]
        phrase = rng.choice([phrase for phrase in PHRASES[slot[1]] if phrase not in used])
        used.add(phrase)
        return _SLOT.sub(fill, phrase)

    sentence = _ARTICLE_BEFORE_VOWEL.sub(r"\1n ", _SLOT.sub(fill, template))
    return sentence[0].upper() + sentence[1:]
