"""A client's fresh token (``bus:token``): what it grants holds from now on."""

from __future__ import annotations

from roomcast.membership import Change
from roomcast_edge.answers import Refused
from roomcast_edge.auth import Auth, Denied
from roomcast_edge.closing import CloseCode
from roomcast_edge.connection import Connection
from roomcast_edge.membership import Membership
from roomcast_edge.socket import EdgeSocket


class Renewal:
    """Exchanges the grant of a connected socket for that of a fresh token."""

    def __init__(self, auth: Auth, membership: Membership) -> None:
        self._auth = auth
        self._membership = membership

    async def renew(self, connection: Connection, socket: EdgeSocket, token: str) -> float:
        """Take a token; returns when its grant ends, in seconds since the epoch (0: never).

        :class:`Refused` when it is refused, or is another user's: all is as before then. The socket joins the rooms of
        the grant; it leaves none.
        """
        try:
            grant = await self._auth.renew(token)
        except Denied as denied:
            code = "unavailable" if denied.code is CloseCode.TRY_LATER else "unauthorized"
            raise Refused(code, str(denied)) from None
        if grant.user != socket.user:
            raise Refused("forbidden", "the token is another user's: connect anew with it")
        if self._membership.index.sockets.get(socket.id) is not socket:
            raise Refused("unavailable", "the session is not here any more")
        socket.client_rooms, socket.data = grant.client_rooms, grant.data
        connection.expire_at(grant.expires)
        _, saved = self._membership.change(socket, Change(join=grant.all_rooms))
        await (saved or self._membership.keeper.save(socket))
        return grant.expires
