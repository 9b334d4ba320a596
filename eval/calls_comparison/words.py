"""Words of the made catalogue: what there is, what is done with it, and in which words people ask for it."""

from __future__ import annotations

from typing import NamedTuple

# domain -> thing: what people call it besides
THINGS = {
    "calendar": {"appointment": "consultation", "meeting": "get-together", "reminder": "nudge", "alarm": "wake-up call", "timer": "countdown",
                 "birthday": "name day", "deadline": "due date", "holiday": "day off", "shift": "working hour", "event": "happening"},
    "money": {"invoice": "bill", "receipt": "proof of payment", "budget": "spending plan", "loan": "credit", "payment": "transfer",
              "refund": "money back claim", "donation": "gift of money", "subscription": "membership", "cheque": "bank draft", "salary": "wage"},
    "travel": {"flight": "plane trip", "hotel": "room for the night", "train": "rail seat", "taxi": "cab", "ferry": "boat crossing",
               "tour": "guided visit", "visa": "entry permit", "route": "way there", "cruise": "sea voyage", "suitcase": "piece of luggage"},
    "media": {"photo": "snapshot", "song": "tune", "playlist": "music mix", "podcast": "talk show", "film": "movie", "album": "record",
              "audiobook": "spoken novel", "station": "radio channel", "video": "clip", "game": "puzzle"},
    "office": {"contract": "agreement", "report": "write-up", "letter": "piece of mail", "form": "questionnaire", "slide": "presentation page",
               "spreadsheet": "table of figures", "memo": "short notice", "survey": "opinion poll", "agenda": "list of topics", "project": "undertaking"},
    "shop": {"order": "purchase", "parcel": "package", "voucher": "coupon", "wish": "thing I long for", "basket": "trolley",
             "warranty": "guarantee", "return": "item to send back", "review": "customer opinion", "bargain": "special offer", "brand": "maker"},
    "health": {"prescription": "doctor's note", "vaccination": "jab", "diet": "eating plan", "workout": "exercise", "scan": "body image",
               "allergy": "intolerance", "therapy": "treatment", "checkup": "examination", "medicine": "drug", "symptom": "complaint"},
    "food": {"recipe": "cooking instruction", "menu": "list of dishes", "grocery": "thing to eat", "table": "restaurant seat", "cocktail": "mixed drink",
             "cake": "dessert", "snack": "small bite", "wine": "bottle of red", "breakfast": "morning meal", "dinner": "evening meal"},
    "home": {"lamp": "light", "heater": "radiator", "door": "entrance", "camera": "watching eye", "oven": "cooker", "curtain": "blind",
             "fridge": "cooler", "garden": "lawn", "repair": "job for the craftsman", "insurance": "cover against damage"},
    "people": {"contact": "address", "group": "circle of friends", "email": "electronic message", "chat": "conversation", "call": "ring",
               "invitation": "request to come", "guest": "visitor", "neighbour": "person next door", "pet": "animal", "party": "celebration"},
}


class Verb(NamedTuple):
    """What can be done with a thing."""

    description: str
    arguments: dict[str, dict]  # JSON schemas in their order
    clauses: tuple[str, str, str]  # the description's word, another of its words, and none of them


TEXT = {"type": "string"}
DAYS = ("Monday", "Tuesday", "Friday", "Sunday")
VERBS = {
    "create": Verb("Create or add a new {thing}.", {"name": TEXT},
                   ("create a {thing} called {name}", "add the new {thing} {name}", "make me one more {thing}, {name}")),
    "delete": Verb("Delete or remove a {thing}.", {"name": TEXT},
                   ("delete the {thing} {name}", "remove my {thing} {name}", "get rid of the {thing} {name}")),
    "find": Verb("Find or search a {thing}.", {"name": TEXT},
                 ("find the {thing} {name}", "search for a {thing} called {name}", "tell me where the {thing} {name} is")),
    "list": Verb("List or show every {thing}.", {},
                 ("list every {thing}", "show each {thing}", "go through whatever {thing} I have")),
    "count": Verb("Count how many of a {thing} there are.", {},
                  ("count each {thing}", "say how many times there is a {thing}", "give me the total by {thing}")),
    "print": Verb("Print copies of a {thing}.", {"copies": {"type": "integer", "minimum": 1, "maximum": 99}},
                  ("print the {thing} {copies} times", "make {copies} copies of the {thing}", "put the {thing} on {copies} sheets of paper")),
    "share": Verb("Share a {thing} with a person.", {"name": TEXT, "person": TEXT},
                  ("share the {thing} {name} with {person}", "give the person {person} my {thing} {name}", "let {person} see the {thing} {name}")),
    "rename": Verb("Rename a {thing}, change its name.", {"name": TEXT, "new_name": TEXT},
                   ("rename the {thing} {name} to {new_name}", "change the {thing} {name} to {new_name}", "call the {thing} {name} from now on {new_name}")),
    "move": Verb("Move or shift a {thing} to a day.", {"name": TEXT, "day": {"type": "string", "enum": list(DAYS)}},
                 ("move the {thing} {name} to {day}", "shift the {thing} {name} to {day}", "put the {thing} {name} off until {day}")),
    "rate": Verb("Rate a {thing} with stars.", {"name": TEXT, "stars": {"type": "integer", "minimum": 1, "maximum": 5}},
                 ("rate the {thing} {name} {stars}", "give {stars} stars to the {thing} {name}", "let the {thing} {name} have a score of {stars}")),
}

FRAMES = {  # of training requests and of questions: no sentence is in both
    "train": ("{clause}.", "please {clause}.", "I want you to {clause}.", "could you {clause}?", "I would like you to {clause}, please."),
    "eval": ("would you please {clause}?", "now {clause}.", "I want to ask you to {clause}."),
}
PEOPLE = ("Anna", "Ben", "Carla", "David", "Elena", "Frank", "Greta", "Hugo", "Iris", "Jonas", "Karin", "Leo", "Mona", "Nils", "Olga", "Paul", "Rosa",
          "Simon", "Tina", "Uwe", "Vera", "Walter", "Yara", "Zoe")
