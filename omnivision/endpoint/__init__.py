"""The one way to an OpenAI-compatible chat endpoint: every question stands in a ledger before it is sent, and is paid once.

    with Ledger(folder / "teacher.jsonl") as ledger, Client(Endpoint(url, model, key_variable="OPENAI_API_KEY"), ledger) as client:
        for outcome in client.ask_all((row.key, [message("user", row.question)]) for row in rows):
            ...
"""

from omnivision.endpoint.accounts import Tokens
from omnivision.endpoint.client import Client
from omnivision.endpoint.ledger import Ledger
from omnivision.endpoint.lines import Request
from omnivision.endpoint.messages import image_part, message, text_part
from omnivision.endpoint.outcomes import Billed, Kind, Outcome, Usage
from omnivision.endpoint.settings import Endpoint
from omnivision.endpoint.tally import Tally

__all__ = ["Billed", "Client", "Endpoint", "Kind", "Ledger", "Outcome", "Request", "Tally", "Tokens", "Usage", "image_part", "message", "text_part"]
