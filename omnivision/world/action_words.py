"""The ten image-grounded actions as tools, and the sentences in which people ask for them."""

from __future__ import annotations

from .vocabulary import COLORS, kinds, places

POSITIONS = ("left", "middle", "right")
NAME = {"type": "string", "description": "name written on the sign"}
COUNT = {"type": "integer", "minimum": 1, "maximum": 9, "description": "how many are in the picture"}


def _thing(description: str) -> dict:
    return {"type": "string", "description": f"{description}, its English name"}


def _one_of(values: tuple[str, ...], description: str) -> dict:
    return {"type": "string", "enum": list(values), "description": description}


def function_tools() -> list[dict]:
    """The ten actions and `irrelevant`, as a list of tools in OpenAI's format (the order is the tokens' order)."""
    bins = tuple(sorted({kind.bin for kind in kinds().values() if kind.bin}))
    table = (
        ("send_email", "Write an email to a person about something in the picture.",
         {"recipient": NAME, "subject": _thing("what the email is about")}),
        ("send_message", "Send a person a text message with a number counted in the picture.",
         {"recipient": NAME, "count": COUNT}),
        ("web_search", "Search the web for an object in the picture.", {"query": _thing("the object")}),
        ("shop", "Buy a product like the one in the picture, in the same color.",
         {"item": _thing("the product"), "color": _one_of(COLORS, "its color")}),
        ("recycle", "Throw an object in the picture into the right recycling bin.",
         {"item": _thing("the object"), "bin": _one_of(bins, "the bin it belongs in")}),
        ("report_lost_item", "Report an object as lost at the place in the picture.",
         {"item": _thing("the lost object"), "place": _one_of(tuple(places()), "where it was lost")}),
        ("interior_design", "Redesign a room around a piece of furniture or decoration in the picture.",
         {"item": _thing("the piece"), "position": _one_of(POSITIONS, "where it stands in the picture")}),
        ("order_groceries", "Order the groceries in the picture, as many as there are.",
         {"item": _thing("the grocery"), "count": COUNT}),
        ("order_food", "Order the dish in the picture from a restaurant.",
         {"dish": _thing("the dish"), "count": COUNT}),
        ("animal_care", "Find somebody to look after the animal in the picture.", {"animal": _thing("the animal")}),
        ("irrelevant", "No other function serves the request, or its object is not in the picture.", {}),
    )
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": description,
                "parameters": {
                    "type": "object",
                    "properties": properties,
                    "required": list(properties),
                    "additionalProperties": False,
                },
            },
        }
        for name, description, properties in table
    ]


# {ref} points at an object without naming it: "the object on the far left", "the animal".
SENTENCES = {
    "send_email": (
        ("Email the person on the sign about {ref}.", "Send an email about {ref} to the name on the sign.",
         "Write an email to the person named on the sign; the subject is {ref}."),
        ("给牌子上的人发一封邮件，主题是{ref}。", "发邮件给牌子上的人，说说{ref}。", "写封关于{ref}的邮件给牌子上的人。"),
    ),
    "send_message": (
        ("Text the person on the sign how many {things} there are.",
         "Send a message to the name on the sign with the number of {things}.",
         "Count the {things} and message the person on the sign."),
        ("发短信告诉牌子上的人有几{measure}{things}。", "数一数{things}，发短信给牌子上的人。", "给牌子上的人发消息，说{things}的数量。"),
    ),
    "web_search": (
        ("Search the web for {ref}.", "Look up {ref} online.", "Find out more about {ref} on the internet."),
        ("上网搜索{ref}。", "在网上查一下{ref}。", "我想上网了解{ref}。"),
    ),
    "shop": (
        ("Buy me one like {ref}, in the same color.", "I want to buy {ref} in that color.",
         "Shop for {ref}, same color please."),
        ("帮我买一个和{ref}同样颜色的。", "我想买{ref}，颜色要一样。", "购买{ref}，要同样的颜色。"),
    ),
    "recycle": (
        ("Throw {ref} into the right bin.", "Which bin does {ref} belong in? Recycle it.", "Please recycle {ref}."),
        ("把{ref}扔进正确的垃圾桶。", "请回收{ref}。", "把{ref}做垃圾分类。"),
    ),
    "report_lost_item": (
        ("I lost {ref} here, please report it.", "Report {ref} as lost at this place.",
         "Somebody left {ref} here: tell the lost and found."),
        ("我在这里丢了{ref}，请报失。", "请为{ref}登记失物，地点就在这里。", "有人把{ref}落在这里了，通知失物招领处。"),
    ),
    "interior_design": (
        ("Redesign the room around {ref}.", "Make a room design that keeps {ref} where it is.",
         "Give me an interior design with {ref}."),
        ("围绕{ref}重新设计房间。", "做一个室内设计，{ref}的位置不变。", "用{ref}给我一个室内设计方案。"),
    ),
    "order_groceries": (
        ("Order the same groceries, as many as you see.", "Add these groceries to my order, the same number.",
         "I need the groceries in the picture, in the same amount."),
        ("订购同样数量的图中食材。", "把图中的食材按数量加入订单。", "我要买图里的食材，数量一样。"),
    ),
    "order_food": (
        ("Order the dish in the picture, as many as you see.", "Get this dish delivered, the same number.",
         "I am hungry: order this meal for me, same amount."),
        ("点图中的餐点外卖，数量一样。", "外卖点同样的菜，同样的份数。", "我饿了，点图里的餐点，份数一样。"),
    ),
    "animal_care": (
        ("Find somebody to look after the animal.", "The animal needs a vet.", "Who can take care of this animal?"),
        ("找人照顾图中的动物。", "图中的动物需要看兽医。", "谁能照看这只动物？"),
    ),
    "irrelevant": (
        ("Set an alarm for seven.", "Play some music.", "What is the weather tomorrow?", "Turn on the flashlight.",
         "Start a timer for ten minutes.", "Turn the volume down.", "Translate this into French.", "Call a taxi.",
         "Turn on airplane mode.", "Read me the news."),
        ("定一个七点的闹钟。", "放点音乐。", "明天天气怎么样？", "打开手电筒。", "开始十分钟倒计时。", "把音量调低。",
         "把这个翻译成法语。", "叫一辆出租车。", "打开飞行模式。", "给我读新闻。"),
    ),
}
REFERENCES = {
    "left": ("the object on the far left", "最左边的东西"),
    "right": ("the object on the far right", "最右边的东西"),
    "top": ("the object at the top", "最上面的东西"),
    "bottom": ("the object at the bottom", "最下面的东西"),
    "animal": ("the animal", "图中的动物"),
    "vehicle": ("the vehicle", "图中的交通工具"),
    "plant": ("the plant", "图中的植物"),
    "food": ("the food", "图中的食物"),
    "furniture": ("the furniture", "图中的家具"),
    "decor": ("the decoration", "图中的装饰品"),
}
