// The seven routes: each function sends one request and checks the reply.
//
// Measured requests have the tag phase=run, those that prepare a measurement phase=prepare; the tag
// name is the route. A reply counts as wrong (metric wrong_replies) unless its status, its body
// and its headers are what the contract says.
//
// k6 shares the machine with what it measures, and parsing 150 seats costs it more than the gateway
// needs to send them. So setup() checks each page once and returns the fingerprints of the correct
// ones: a page with the same bytes is correct too, and is not parsed.

import { md5 } from 'k6/crypto';
import http from 'k6/http';
import { Counter, Rate } from 'k6/metrics';

import { BASE_URL, CONCERTS, SEATS, schedulesOf } from './env.js';

const wrongReplies = new Rate('wrong_replies');
const seatsWon = new Counter('seats_won');
const seatsTaken = new Counter('seats_taken');

const RUN = { phase: 'run' };
export const PREPARE = { phase: 'prepare' };

const CREATED = http.expectedStatuses(201);
const OK = http.expectedStatuses(200);
// Somebody else has the seat: a correct reply.
const OK_OR_TAKEN = http.expectedStatuses(200, 409);
const NO_CONTENT = http.expectedStatuses(204);

const JSON_TYPE = 'application/json';
const TOKEN = 'X-Access-Token';
const DATE = /^\d{4}-\d\d-\d\d$/;
const PRICE = /^\d+\.\d\d$/;
const STATUSES = ['AVAILABLE', 'HELD', 'SOLD'];
const DAY_MS = 86_400_000;
// The contract's default page size.
const PAGE_SIZE = 100;

let complaints = 0;
let lastWrong = '';

/** Status and beginning of the last wrong reply, in brackets; empty if all were right. */
export function whatWasWrong() {
  return lastWrong && ` (${lastWrong})`;
}

let rightPages = {};

/** Fingerprints of the pages that were correct so far: page -> MD5. */
export function pagesSeen() {
  return rightPages;
}

/** Uses the fingerprints of setup(). */
export function recognise(pages) {
  rightPages = pages;
}

function params(name, tags, expected, token) {
  return {
    tags: { name, ...tags },
    responseCallback: expected,
    headers: { 'Content-Type': JSON_TYPE, ...(token && { [TOKEN]: token }) },
    timeout: '60s',
  };
}

/** Returns the body of a correct reply, otherwise null; counts both. */
function judged(response, name, tags, status, isRight) {
  let body = null;
  if (response.status === status) {
    try {
      body = response.json();
      if (!isRight(body)) body = null;
    } catch {
      body = null;
    }
  }
  wrongReplies.add(body === null, { name, ...tags });
  if (body === null) complain(name, response);
  return body;
}

/** Whether the page has the bytes of a page that was correct, or is correct itself. */
function isRightPage(page, response, name, tags, isRight) {
  const known = rightPages[page];
  if (response.status === 200 && known && known === md5(response.body, 'hex')) {
    wrongReplies.add(false, { name, ...tags });
    return true;
  }
  if (judged(response, name, tags, 200, isRight) === null) return false;
  if (tags === PREPARE) rightPages[page] = md5(response.body, 'hex');
  return true;
}

function complain(name, response) {
  const told = response.error || String(response.body).slice(0, 200);
  lastWrong = `status ${response.status}: ${told}`;
  complaints += 1;
  if (complaints > 2) return; // of each virtual user
  console.error(`${name}: wrong reply, ${lastWrong}`);
}

const isId = (value) => Number.isInteger(value) && value > 0;
const isText = (value) => typeof value === 'string' && value !== '';
const isOrder = (value) => Number.isInteger(value) && value >= 0;

// --- the queue -------------------------------------------------------------------------------

function enqueueRequest(userId, tags) {
  const body = JSON.stringify({ userId });
  return ['POST', `${BASE_URL}/queues/enqueue`, body, params('enqueue', tags, CREATED)];
}

function entered(response, userId, tags) {
  const token = response.headers[TOKEN];
  const body = judged(
    response, 'enqueue', tags, 201,
    (body) => isOrder(body.order) && typeof token === 'string' && token.split('.').length === 3,
  );
  return body && { userId, token, order: body.order };
}

/** {userId, token, order}, or null. */
export function enqueue(userId, tags = RUN) {
  return entered(http.request(...enqueueRequest(userId, tags)), userId, tags);
}

/** The same for many users at once, without those who got no place. */
export function enqueueMany(userIds, tags) {
  const responses = http.batch(userIds.map((userId) => enqueueRequest(userId, tags)));
  return responses
    .map((response, index) => entered(response, userIds[index], tags))
    .filter((fan) => fan !== null);
}

/** {order, retryAfter, fromMemory}, or null. `before` is the previous order, if any: an order never grows. */
export function order(token, before = Infinity, tags = RUN) {
  const response = http.get(`${BASE_URL}/queues/order`, params('order', tags, OK, token));
  const retryAfter = Number(response.headers['Retry-After']);
  const body = judged(
    response, 'order', tags, 200,
    (body) =>
      isOrder(body.order) &&
      (body.order <= before || body.recovering) &&
      (body.order === 0 || retryAfter >= 1),
  );
  return body && { order: body.order, retryAfter, fromMemory: 'Age' in response.headers };
}

/** Gives back the places of many; not one of the seven routes, and not measured. */
export function leaveMany(fans) {
  http.batch(
    fans.map(({ token }) => [
      'DELETE', `${BASE_URL}/queues/order`, null, params('leave', PREPARE, NO_CONTENT, token),
    ]),
  );
}

// --- what is for sale ------------------------------------------------------------------------

/** Lists the concerts; returns whether the reply was correct. */
export function concerts(token, tags = RUN) {
  const page = '/concerts';
  const response = http.get(BASE_URL + page, params('concerts', tags, OK, token));
  return isRightPage(
    page, response, 'concerts', tags,
    ({ concerts }) =>
      concerts.length === Math.min(CONCERTS, PAGE_SIZE) &&
      concerts.every(({ id, title }, index) => id === index + 1 && isText(title)),
  );
}

/** Whether these are the dates of the concert in order: all, or the last ones if the others have
 * passed. */
function areSchedules(schedules, concertId) {
  const ids = schedulesOf(concertId).slice(-schedules.length);
  const passed = schedulesOf(concertId).length > ids.length;
  return (
    schedules.length > 0 &&
    schedules.length === ids.length &&
    schedules.every(
      ({ id, date, status }, index) =>
        id === ids[index] &&
        DATE.test(date) &&
        (status === 'AVAILABLE' || status === 'SOLD_OUT') &&
        (index === 0 || schedules[index - 1].date < date),
    ) &&
    // The first date that has not passed is today (around midnight a day earlier or later).
    (!passed || Math.abs(Date.parse(schedules[0].date) - Date.now()) < 2 * DAY_MS)
  );
}

/** Reads the dates of a concert; returns whether the reply was correct. */
export function schedules(token, concertId, tags = RUN) {
  const page = `/concerts/${concertId}/schedules`;
  const response = http.get(BASE_URL + page, params('schedules', tags, OK, token));
  return isRightPage(
    page, response, 'schedules', tags,
    ({ schedules }) => areSchedules(schedules, concertId),
  );
}

/** Reads the seats of a date; returns whether the reply was correct. */
export function seats(token, scheduleId, tags = RUN) {
  const page = `/concerts/schedules/${scheduleId}/seats`;
  const response = http.get(BASE_URL + page, params('seats', tags, OK, token));
  const first = (scheduleId - 1) * SEATS + 1;
  return isRightPage(
    page, response, 'seats', tags,
    ({ seats }) =>
      seats.length === SEATS &&
      seats.every(
        ({ id, seatNum, price, status }, index) =>
          id === first + index &&
          isText(seatNum) &&
          PRICE.test(price) &&
          STATUSES.includes(status),
      ),
  );
}

// --- holding and paying ----------------------------------------------------------------------

function reserveRequest({ userId, token }, seatId, tags) {
  const body = JSON.stringify({ userId, concertSeatId: seatId });
  return [
    'POST', `${BASE_URL}/concerts/reservation`, body,
    params('reserve', tags, OK_OR_TAKEN, token),
  ];
}

function reserved(response, tags) {
  const taken = response.status === 409;
  const body = judged(response, 'reserve', tags, taken ? 409 : 200, (body) =>
    taken
      ? body.code === 'SEAT_HELD' || body.code === 'SEAT_SOLD'
      : isId(body.reservationId) &&
        PRICE.test(body.price) &&
        Date.parse(body.heldUntil) > Date.now(),
  );
  if (!body) return null;
  (taken ? seatsTaken : seatsWon).add(1, tags);
  return taken ? { taken } : { ...body, taken };
}

/** {taken: false, reservationId, heldUntil, …}; {taken: true} if somebody else has the seat; or
 * null. */
export function reserve(fan, seatId, tags = RUN) {
  return reserved(http.request(...reserveRequest(fan, seatId, tags)), tags);
}

/** The same for many people, a seat for each. */
export function reserveMany(fans, seatIds, tags) {
  const requests = fans.map((fan, index) => reserveRequest(fan, seatIds[index], tags));
  return http.batch(requests).map((response) => reserved(response, tags));
}

/** The payment's id, or null. */
export function pay({ userId, token }, reservationId, tags = RUN) {
  const response = http.post(
    `${BASE_URL}/concerts/reservations/${reservationId}/pay`,
    JSON.stringify({ userId }),
    params('pay', tags, OK, token),
  );
  const body = judged(
    response, 'pay', tags, 200,
    (body) =>
      isId(body.paymentId) && body.reservationId === reservationId && body.status === 'SUCCEEDED',
  );
  return body && body.paymentId;
}
