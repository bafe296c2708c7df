// Settings from the environment, and what is for sale.
//
//   BASE_URL      the gateway; default http://127.0.0.1:8080
//   USERS         user ids are from 1 to this; default 1,000,000
//   SCHEDULES_OF_SEATS   how many dates the seats route chooses from; default 20
//
// What is for sale. `make loadtest` counts it and sets these; set them for a script that you run
// alone:
//
//   CONCERTS      concerts, with ids from 1; default 100
//   SCHEDULES     dates of each concert; default 100
//   SCHEDULE_IDS  difference between the first date ids of two concerts; default 100
//   SEATS         seats of each date; default 150
//   HOT_SCHEDULE  the one date that everybody wants; default: any; in hotseat a random one

/** The variable `name`, or the default if it is not set or empty. */
export function text(name, otherwise) {
  return __ENV[name] || otherwise;
}

/** The same, as a number. */
export function number(name, otherwise) {
  if (!__ENV[name]) return otherwise;
  const value = Number(__ENV[name]);
  if (!Number.isFinite(value) || value < 0) {
    throw new Error(`${name} must be a number from 0 up, not ${__ENV[name]}`);
  }
  return value;
}

export const BASE_URL = text('BASE_URL', 'http://127.0.0.1:8080').replace(/\/+$/, '');

export const CONCERTS = number('CONCERTS', 100);
const SCHEDULES = number('SCHEDULES', 100);
export const SEATS = number('SEATS', 150);
const USERS = number('USERS', 1_000_000);
const HOT_SCHEDULE = number('HOT_SCHEDULE', 0);
const SCHEDULES_OF_SEATS = number('SCHEDULES_OF_SEATS', 20);
const SCHEDULE_IDS = number('SCHEDULE_IDS', 100);

function among(count) {
  return 1 + Math.floor(Math.random() * count);
}

export function anyConcert() {
  return among(CONCERTS);
}

/** Ids from 1 to `count`. */
function upTo(count) {
  return Array.from({ length: count }, (_, index) => 1 + index);
}

export const ALL_CONCERTS = upTo(CONCERTS);

/** The ids of all dates of a concert, in order. */
export function schedulesOf(concertId) {
  return upTo(SCHEDULES).map((number) => (concertId - 1) * SCHEDULE_IDS + number);
}

/** The id of a random date, or of HOT_SCHEDULE. */
export function anySchedule() {
  return HOT_SCHEDULE || (anyConcert() - 1) * SCHEDULE_IDS + among(SCHEDULES);
}

/** The few dates whose seats most people read. */
export const POPULAR_SCHEDULES = HOT_SCHEDULE
  ? [HOT_SCHEDULE]
  : upTo(Math.min(SCHEDULES_OF_SEATS, SCHEDULES));

export function popularSchedule() {
  return POPULAR_SCHEDULES[among(POPULAR_SCHEDULES.length) - 1];
}

/** The id of a random seat. */
export function anySeat() {
  return (anySchedule() - 1) * SEATS + among(SEATS);
}

export function anyUser() {
  return among(USERS);
}

// A prime, so coprime to the number of users unless that number is one of its multiples.
const STRIDE = 618_041;

/** The user of an iteration: seemingly random, but never the same twice (among a million), because
 * two people cannot share a place. `first` is a random user, the same for all virtual users. */
export function userOf(iteration, first) {
  return 1 + ((first + iteration * STRIDE) % USERS);
}

/** A user id for a person who is admitted before the measurement. Above those of the measurement,
 * and below the ids that the sandbox payment provider treats specially. */
export function newUser() {
  return 1_000_000_000 + Math.floor(Math.random() * 90_000_000_000);
}
