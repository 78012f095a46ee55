"""Words in other scripts, which the tokenizer spells in UTF-8 bytes."""

from __future__ import annotations

from random import Random

_SCRIPTS = (
    "àáâãäåæçèéêëìíîïñòóôõöøùúûüýß",
    "ąćčďęěğıłńňőřśšşťůűźžā",
    "αβγδεζηθικλμνξοπρστυφχψω",
    "абвгдежзийклмнопрстуфхцчшщыьэюя",
    "אבגדהוזחטיכלמנסעפצקרשת",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "कखगघचछजझटडणतदनपबमयरलवसह",
    "あいうえおかきくけこさしすせそたちつてとなにの",
    "アイウエオカキクケコサシスセソタチツテトナニ",
    "大小中山川田木水火土金日月年人口目手心力上下天地東西南北花雨雪風海空",
    "가나다라마바사아자차카타파하고노도로모보소오조",
    "😀🎉🐱🌍🚀🍎⭐🔥💡🎵",
)
_LATIN = "abcdefghijklmnoprstuvz"

# Real names that no training example holds; the evaluator's.
HELD_OUT_FOREIGN = tuple(
    "Дмитрий Ольга Αθήνα Ελένη José Łukasz Çelik Åsa 東京 北京 서울 さくら שלום محمد Gößweinstein "
    "Владивосток Żaneta Iñaki Zoë Tromsø Νίκος Ёлка".split()
)


def foreign_word(rng: Random) -> str:
    """Random letters of one script; of accented ones, mixed into plain letters."""
    script = rng.choice(_SCRIPTS)
    dense = ord(script[0]) > 0x3000
    while True:
        letters = [rng.choice(script) for _ in range(rng.randint(1, 3 if dense else 6))]
        if script in _SCRIPTS[:2]:
            letters = [rng.choice(_LATIN) if rng.random() < 0.6 else each for each in letters]
            letters.append(rng.choice(script))
            rng.shuffle(letters)
        word = "".join(letters)
        if rng.random() < 0.7:
            word = word.capitalize()
        if word not in HELD_OUT_FOREIGN:
            return word
