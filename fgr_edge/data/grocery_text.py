"""What tells each grocery class apart, in a few words of our own, and the reasoning written from them.

The cue is a fact about the class, not about one photograph. The shape is Fine-R1's: what is seen, candidates, what
sets them apart, the conclusion.
"""

from __future__ import annotations

from fgr_edge.data.grocery import GroceryClasses
from fgr_edge.errors import DataError

CUES: dict[str, str] = {
    "Golden Delicious": "yellow green skin", "Granny Smith": "bright green skin", "Pink Lady": "pink blush on green",
    "Red Delicious": "deep red skin", "Royal Gala": "red stripes on yellow", "Avocado": "dark bumpy pear shape",
    "Banana": "long curved yellow", "Kiwi": "brown fuzzy skin", "Lemon": "yellow oval citrus",
    "Lime": "small green citrus", "Mango": "large red and green oval", "Cantaloupe": "netted beige rind",
    "Galia Melon": "netted yellow rind", "Honeydew Melon": "smooth pale yellow rind",
    "Watermelon": "large dark green rind", "Nectarine": "smooth red and yellow skin", "Orange": "round orange citrus",
    "Papaya": "long green and yellow fruit", "Passion Fruit": "small dark purple fruit",
    "Peach": "fuzzy red and yellow skin", "Anjou": "round green pear", "Conference": "long brown green pear",
    "Kaiser": "golden brown pear", "Pineapple": "spiky rind with leaves", "Plum": "small dark smooth fruit",
    "Pomegranate": "red rind with crown", "Red Grapefruit": "large pink orange citrus",
    "Satsumas": "small flat orange citrus", "Bravo Apple Juice": "Bravo carton, apple",
    "Bravo Orange Juice": "Bravo carton, orange", "God Morgon Apple Juice": "God Morgon carton, apple",
    "God Morgon Orange Juice": "God Morgon carton, orange",
    "God Morgon Orange Red Grapefruit Juice": "God Morgon carton, orange and grapefruit",
    "God Morgon Red Grapefruit Juice": "God Morgon carton, grapefruit",
    "Tropicana Apple Juice": "Tropicana bottle, apple", "Tropicana Golden Grapefruit": "Tropicana bottle, golden",
    "Tropicana Juice Smooth": "Tropicana bottle, smooth", "Tropicana Mandarin Morning": "Tropicana bottle, mandarin",
    "Arla Ecological Medium Fat Milk": "Arla eco carton, medium fat",
    "Arla Lactose Medium Fat Milk": "Arla lactose free carton", "Arla Medium Fat Milk": "Arla carton, medium fat",
    "Arla Standard Milk": "Arla carton, standard", "Garant Ecological Medium Fat Milk": "Garant eco carton, medium fat",
    "Garant Ecological Standard Milk": "Garant eco carton, standard",
    "Oatly Natural Oatghurt": "Oatly carton, oatghurt",
    "Oatly Oat Milk": "Oatly carton, drink", "Arla Ecological Sour Cream": "Arla eco tub",
    "Arla Sour Cream": "Arla tub", "Arla Sour Milk": "Arla carton, sour",
    "Alpro Blueberry Soyghurt": "Alpro carton, blueberry", "Alpro Vanilla Soyghurt": "Alpro carton, vanilla",
    "Alpro Fresh Soy Milk": "Alpro carton, fresh", "Alpro Shelf Soy Milk": "Alpro carton, shelf",
    "Arla Mild Vanilla Yoghurt": "Arla carton, mild vanilla",
    "Arla Natural Mild Low Fat Yoghurt": "Arla carton, mild low fat", "Arla Natural Yoghurt": "Arla carton, natural",
    "Valio Vanilla Yoghurt": "Valio carton, vanilla", "Yoggi Strawberry Yoghurt": "Yoggi carton, strawberry",
    "Yoggi Vanilla Yoghurt": "Yoggi carton, vanilla", "Asparagus": "thin green spears",
    "Aubergine": "large dark purple", "Cabbage": "pale round leaves", "Carrots": "long orange roots",
    "Cucumber": "long dark green", "Garlic": "white papery bulbs", "Ginger": "knobbly beige root",
    "Leek": "long white and green stalks", "Brown Cap Mushroom": "brown round caps",
    "Yellow Onion": "yellow papery bulbs", "Green Bell Pepper": "green glossy lobes",
    "Orange Bell Pepper": "orange glossy lobes", "Red Bell Pepper": "red glossy lobes",
    "Yellow Bell Pepper": "yellow glossy lobes", "Floury Potato": "rough brown tubers",
    "Solid Potato": "smooth yellow tubers", "Sweet Potato": "orange pink tubers", "Red Beet": "dark red round roots",
    "Beef Tomato": "large ribbed red", "Regular Tomato": "round red", "Vine Tomato": "red on a green vine",
    "Zucchini": "long speckled green",
}  # fmt: skip

# Where a class has no sister in its coarse class, what it is most easily taken for.
ALSO: dict[str, str] = {
    "Avocado": "Kiwi", "Banana": "Mango", "Kiwi": "Ginger", "Lemon": "Lime", "Lime": "Lemon", "Mango": "Papaya",
    "Nectarine": "Peach", "Orange": "Satsumas", "Papaya": "Mango", "Passion Fruit": "Plum", "Peach": "Nectarine",
    "Pineapple": "Cantaloupe", "Plum": "Passion Fruit", "Pomegranate": "Red Grapefruit", "Red Grapefruit": "Orange",
    "Satsumas": "Orange", "Oatly Natural Oatghurt": "Oatly Oat Milk", "Oatly Oat Milk": "Oatly Natural Oatghurt",
    "Arla Sour Milk": "Arla Natural Yoghurt", "Asparagus": "Leek", "Aubergine": "Zucchini", "Cabbage": "Leek",
    "Carrots": "Sweet Potato", "Cucumber": "Zucchini", "Garlic": "Yellow Onion", "Ginger": "Solid Potato",
    "Leek": "Asparagus", "Brown Cap Mushroom": "Floury Potato", "Yellow Onion": "Garlic", "Red Beet": "Red Bell Pepper",
    "Zucchini": "Cucumber",
}  # fmt: skip


def cue(name: str) -> str:
    """What the class looks like.

    Raises:
        DataError: no cue is written for that class.
    """
    if name not in CUES:
        raise DataError(f"no cue is written for the grocery class {name!r}")
    return CUES[name]


def look_alikes(classes: GroceryClasses, fine: int, count: int = 2) -> tuple[str, ...]:
    """Names of the classes it is most easily taken for: sisters of its coarse class first, nearest ids first."""
    own = classes.coarse_of[fine]
    sisters = [i for i in range(len(classes.fine)) if classes.coarse_of[i] == own and i != fine]
    sisters.sort(key=lambda i: (abs(i - fine), i))
    names = [classes.fine[i] for i in sisters]
    if not names:
        names = [ALSO[classes.fine[fine]]] if classes.fine[fine] in ALSO else []
    return tuple(names[:count])


def reasoning(classes: GroceryClasses, fine: int) -> str:
    """The text between `<think>` and `</think>` for class `fine`."""
    name, kind = classes.fine[fine], classes.coarse[classes.coarse_of[fine]]
    others = look_alikes(classes, fine)
    names = ", ".join((name, *others))
    against = "; ".join(f"{other} has {cue(other)}" for other in others)
    middle = f" {against}." if against else ""
    return f"{kind}: {cue(name)}. Candidates: {names}.{middle} So {name}."
