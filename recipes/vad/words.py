"""What is said: sentences of random words, by language, with no word in two splits."""

from __future__ import annotations

import numpy as np

Split = str  # "train", "validation" or "test"
SPLITS = ("train", "validation", "test")

WORDS = {
    "en-us": "water morning window people garden quickly river under yellow seven music teacher never against bridge "
    "question summer thousand because kitchen paper travel listen mountain fourteen sister between hospital "
    "Wednesday machine answer little through early carry doctor village usually orange silver",
    "en-gb": "weather station afternoon letter rather picture market ninety Thursday school although bottle cousin "
    "perhaps northern engine sugar follow building castle minute remember cottage laughing clever island purple "
    "hundred tomorrow blanket journey shoulder honest winter railway carpet daughter famous method pocket",
    "de": "Wasser Morgen Fenster Leute Garten schnell Fluss unter gelb sieben Musik Lehrer niemals gegen Brücke Frage "
    "Sommer tausend weil Küche Papier reisen hören Berg vierzehn Schwester zwischen Krankenhaus Mittwoch Maschine "
    "Antwort klein durch früh tragen Arzt Dorf gewöhnlich Apfelsine silbern",
    "fr-fr": "eau matin fenêtre gens jardin vite rivière dessous jaune sept musique professeur jamais contre pont "
    "question été mille parce cuisine papier voyager écouter montagne quatorze soeur entre hôpital mercredi machine "
    "réponse petit travers tôt porter médecin village souvent orange argent",
    "es": "agua mañana ventana gente jardín rápido río debajo amarillo siete música maestro nunca contra puente "
    "pregunta verano mil porque cocina papel viajar escuchar montaña catorce hermana entre hospital miércoles "
    "máquina respuesta pequeño través temprano llevar médico pueblo siempre naranja plata",
    "it": "acqua mattina finestra gente giardino presto fiume sotto giallo sette musica maestro mai contro ponte "
    "domanda estate mille perché cucina carta viaggiare ascoltare montagna quattordici sorella fra ospedale "
    "mercoledì macchina risposta piccolo attraverso subito portare medico villaggio spesso arancia argento",
    "pt-br": "água manhã janela gente jardim depressa rio debaixo amarelo sete música professor nunca contra ponte "
    "pergunta verão mil porque cozinha papel viajar escutar montanha quatorze irmã entre hospital quarta máquina "
    "resposta pequeno através cedo levar médico aldeia sempre laranja prata",
    "nl": "water ochtend venster mensen tuin snel rivier onder geel zeven muziek leraar nooit tegen brug vraag zomer "
    "duizend omdat keuken papier reizen luisteren berg veertien zuster tussen ziekenhuis woensdag machine antwoord "
    "klein door vroeg dragen dokter dorp gewoonlijk sinaasappel zilver",
    "pl": "woda ranek okno ludzie ogród szybko rzeka pod żółty siedem muzyka nauczyciel nigdy przeciw most pytanie "
    "lato tysiąc ponieważ kuchnia papier podróż słuchać góra czternaście siostra między szpital środa maszyna "
    "odpowiedź mały przez wcześnie nosić lekarz wieś zwykle pomarańcza srebro",
    "ru": "вода утро окно люди сад быстро река под жёлтый семь музыка учитель никогда против мост вопрос лето тысяча "
    "потому кухня бумага ехать слушать гора четырнадцать сестра между больница среда машина ответ маленький через "
    "рано нести врач деревня обычно апельсин серебро",
    "sv": "vatten morgon fönster folk trädgård snabbt flod under gul sju musik lärare aldrig emot bro fråga sommar "
    "tusen därför kök papper resa lyssna berg fjorton syster mellan sjukhus onsdag maskin svar liten genom tidig "
    "bära läkare by vanligen apelsin silver",
    "tr": "su sabah pencere insanlar bahçe çabuk nehir altında sarı yedi müzik öğretmen asla karşı köprü soru yaz bin "
    "çünkü mutfak kağıt yolculuk dinlemek dağ ondört abla arasında hastane çarşamba makine cevap küçük içinden erken "
    "taşımak doktor köy genellikle portakal gümüş",
    "fi": "vesi aamu ikkuna ihmiset puutarha nopeasti joki alla keltainen seitsemän musiikki opettaja koskaan vastaan "
    "silta kysymys kesä tuhat koska keittiö paperi matkustaa kuunnella vuori neljätoista sisar välissä sairaala "
    "keskiviikko kone vastaus pieni läpi aikaisin kantaa lääkäri kylä yleensä appelsiini hopea",
    "id": "air pagi jendela orang kebun cepat sungai bawah kuning tujuh musik guru tidak lawan jembatan pertanyaan "
    "panas seribu karena dapur kertas berjalan mendengar gunung empatbelas kakak antara rumah rabu mesin jawaban "
    "kecil lewat awal membawa dokter desa biasanya jeruk perak",
}
ONLY_IN_TEST = ("it", "tr")  # languages of which training hears nothing


def languages(split: Split) -> list[str]:
    """Languages of a split, in a fixed order."""
    return [name for name in WORDS if split == "test" or name not in ONLY_IN_TEST]


def words(language: str, split: Split) -> list[str]:
    """Words of a language that only this split hears: three quarters for training, an eighth for each of the others."""
    every = WORDS[language].split()
    if language in ONLY_IN_TEST:
        return every if split == "test" else []
    residues = {"train": range(6), "validation": (6,), "test": (7,)}[split]
    return [word for place, word in enumerate(every) if place % 8 in residues]


def sentence(language: str, split: Split, draw: np.random.Generator) -> str:
    """Two to nine words, with a comma or none, and a full stop or a question mark."""
    chosen = list(draw.choice(words(language, split), int(draw.integers(2, 10))))
    if len(chosen) > 4 and draw.random() < 0.5:
        chosen[len(chosen) // 2] += ","
    return " ".join(chosen) + (". " if draw.random() < 0.75 else "? ")
