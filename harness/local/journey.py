"""The way of one ticket through the seven public routes, to be pasted into a shell."""

from __future__ import annotations


def curl_journey(url: str) -> str:
    """The address and the journey in curl; needs nothing but curl, grep and sed."""
    return _TEXT.replace("{url}", url)


# Ids are taken from the answers, so that it can be pasted as often as one likes.
_TEXT = r"""
Frontrow serves on {url} (API documentation: {url}/docs)

Buy a ticket (make demo does the same and explains it):

  URL={url}; USER_ID=$RANDOM$RANDOM; JSON='Content-Type: application/json'
  first_available() { tr '{' '\n' | grep '"AVAILABLE"' | grep -oE '"id": ?[0-9]+' | grep -oE '[0-9]+' | head -n 1; }
  ENTERED=$(curl -si "$URL/queues/enqueue" -H "$JSON" -d "{\"userId\": $USER_ID}"); echo "$ENTERED" | tail -n 1
  TOKEN=$(echo "$ENTERED" | sed -n 's/^x-access-token: *//Ip' | tr -d '\r')
  curl -s "$URL/queues/order" -H "X-Access-Token: $TOKEN"; echo
  curl -s "$URL/concerts?pageSize=3" -H "X-Access-Token: $TOKEN"; echo
  SCHEDULE=$(curl -s "$URL/concerts/1/schedules" -H "X-Access-Token: $TOKEN" | first_available)
  SEAT=$(curl -s "$URL/concerts/schedules/$SCHEDULE/seats" -H "X-Access-Token: $TOKEN" | first_available)
  HELD=$(curl -s "$URL/concerts/reservation" -H "X-Access-Token: $TOKEN" -H "$JSON" -d "{\"userId\": $USER_ID, \"concertSeatId\": $SEAT}"); echo "$HELD"
  RESERVATION=$(echo "$HELD" | grep -oE '"reservationId": ?[0-9]+' | grep -oE '[0-9]+')
  curl -s "$URL/concerts/reservations/$RESERVATION/pay" -H "X-Access-Token: $TOKEN" -H "$JSON" -d "{\"userId\": $USER_ID}"; echo

Stop with Ctrl-C, or with make stop from elsewhere.
"""  # noqa: E501
