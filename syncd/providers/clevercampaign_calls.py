"""CleverCampaign's calls, one request each, every name from the table of settings."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from syncd.errors import Misconfigured, Refused
from syncd.model import Answer, Request
from syncd.providers import Wire
from syncd.providers.clevercampaign_answers import Told, records, told
from syncd.providers.clevercampaign_settings import CleverCampaignOptions
from syncd.providers.clevercampaign_translate import FORM, form, quoted

METER = "api"
ACCEPT = {"Accept": "application/json"}


class Calls:
    """Requests of one account; what is said of them is left to the callers.

    fault: why writes are refused as a whole, and its exit code; '' while they are not. The probe
    of `check` only reads, and could not tell.
    """

    def __init__(self, wire: Wire, options: CleverCampaignOptions) -> None:
        self._wire, self.options = wire, options
        self.fault, self.fault_code = "", 0

    async def read(self, path: str, **query: str | int) -> Answer:
        """GET; a parameter whose name is empty is left out."""
        said = urlencode({name: value for name, value in query.items() if name})
        target = f"/{path}?{said}" if said else f"/{path}"
        return await self._wire.send(Request("GET", target, b"", ACCEPT, METER))

    async def page(self, path: str, number: int, size: int | None = None) -> Answer:
        """One page of a collection."""
        o = self.options
        if not o.page_param:
            return await self.read(path)
        return await self.read(path, **{o.page_param: number, o.size_param: size or o.page_size})

    async def contact(self, contact_id: str) -> Answer:
        return await self.read(f"{self.options.contact_path}/{quoted(contact_id)}")

    async def create(self, fields: Mapping[str, str]) -> Told:
        return await self._write("POST", self.options.contact_path, fields)

    async def update(self, contact_id: str, fields: Mapping[str, str]) -> Told:
        path = f"{self.options.contact_path}/{quoted(contact_id)}"
        return await self._write(self.options.update_verb, path, fields)

    async def delete(self, contact_id: str) -> Told:
        return await self._write("DELETE", f"{self.options.contact_path}/{quoted(contact_id)}")

    async def join(self, list_id: str, contact_id: str) -> Told:
        return await self._write(
            "POST", self.members(list_id), {self.options.member_id_field: contact_id}
        )

    async def leave(self, list_id: str, contact_id: str) -> Told:
        return await self._write("DELETE", f"{self.members(list_id)}/{quoted(contact_id)}")

    async def create_list(self, name: str) -> Told:
        fields = {self.options.list_name_field: name}
        return await self._write("POST", self.options.list_path, fields)

    async def rename_list(self, list_id: str, name: str) -> Told:
        path, fields = self._list(list_id), {self.options.list_name_field: name}
        return await self._write(self.options.update_verb, path, fields)

    async def delete_list(self, list_id: str) -> Told:
        return await self._write("DELETE", self._list(list_id))

    def members(self, list_id: str) -> str:
        """The path of a list's members."""
        return self.options.member_path.replace("{list_id}", quoted(list_id))

    def _list(self, list_id: str) -> str:
        return f"{self.options.list_path}/{quoted(list_id)}"

    async def _write(self, method: str, path: str, fields: Mapping[str, str] | None = None) -> Told:
        """Send; refused, ask whether it is the keys. A second try has a salt of its own (5)."""
        headers = ACCEPT if fields is None else {**ACCEPT, "Content-Type": FORM}
        body = b"" if fields is None else form(fields)
        request = Request(method, f"/{path}", body, headers, METER)
        try:
            answer = await self._sent(request)
        except Refused:
            vouched = await self._probe_vouches()
            try:
                answer = await self._sent(request)
            except Refused as err:
                if not vouched:
                    self.fault, self.fault_code = err.reason, err.exit_code
                    raise
                answer = Answer(err.status or 403, {}, b"")
                return Told("refused", answer, f"{err.reason}: the keys are good, this is not")
        return told(answer)

    async def _sent(self, request: Request) -> Answer:
        try:
            answer = await self._wire.send(request)
        except Misconfigured as err:
            if err.status in (406, 415):
                self.fault, self.fault_code = err.reason, err.exit_code
            raise
        if answer.status < 300:
            self.fault, self.fault_code = "", 0
        return answer

    async def _probe_vouches(self) -> bool:
        """Whether a read is answered with data: then the keys are good. Refused if they are not."""
        answer = await self.page(self.options.contact_path, self.options.first_page, 1)
        return answer.status < 300 and records(answer, self.options) is not None
