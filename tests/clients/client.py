"""Lists the agents and follows the events, with a client that was generated from the description of the API."""

import json
import sys

import httpx
from agentd_client import Client
from agentd_client.api.default import agent, agents, health, log
from agentd_client.models import EventState, Fault, FaultCode, State

client = Client(
    base_url="http://agentd",
    raise_on_unexpected_status=True,
    httpx_args={"transport": httpx.HTTPTransport(uds=sys.argv[1])},
)
assert health.sync(client=client).state == "running"

nobody = agent.sync("nobody", client=client)
assert isinstance(nobody, Fault) and nobody.code == FaultCode.NO_SUCH_AGENT, nobody

for listed in agents.sync(client=client):
    exit_code = listed.exit_.code if listed.exit_ else None
    waiting_for = [waiting.kind for waiting in listed.waiting_for or []]
    print(listed.name, listed.state, exit_code, *waiting_for)
    assert agent.sync(listed.name, client=client).name == listed.name
print(log.sync("done", client=client, lines=1), end="")

with client.get_httpx_client().stream("GET", "/v1/events", timeout=60) as stream:
    print("following", flush=True)
    for line in stream.iter_lines():
        field, _, data = line.partition(": ")
        if field != "data":
            continue
        event = json.loads(data)
        if event["type"] != "state":
            continue
        event = EventState.from_dict(event)
        if event.name == "late" and event.agent.state == State.RUNNING:
            print("late runs")
            break
