// A program with imapflow that does what each line of its input asks, and answers each with one line of JSON.
//   {"do": "append", "mailbox": "INBOX", "content": "<base64>", "flags": ["\\Seen"]} -> {"ok": true}
//   {"do": "sync"} -> {"ok": {"INBOX": {"plain": [1, ["\\Seen"], "<sha256>"]}}}
// Its last argument is JSON: more options of imapflow's.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { ImapFlow } from "imapflow";

const [port, user, pass, certificate, options] = process.argv.slice(2);
const said = []; // the lines that went over the wire, and imapflow's own remarks
const waiting = []; // {holds, resolve}: who waits for what
const wake = () => {
    for (const one of waiting.splice(0)) if (one.holds()) one.resolve();
    else waiting.push(one);
};
const until = (holds) =>
    new Promise((resolve) => {
        waiting.push({ holds, resolve });
        wake();
    });
const note = (entry) => {
    said.push(`${entry.src ?? "-"} ${entry.msg ?? entry.err?.message}`);
    wake();
};
const imap = new ImapFlow({
    host: "localhost",
    port: Number(port),
    secure: true,
    tls: { ca: readFileSync(certificate) },
    auth: { user, pass },
    logger: { trace: note, debug: note, info: note, warn: note, error: note },
    ...JSON.parse(options),
});
const byUid = { uid: true };

const events = [];
for (const kind of ["exists", "expunge", "flags"])
    imap.on(kind, ({ count, uid, seq, flags }) => {
        events.push([kind, kind === "exists" ? count : (uid ?? seq), ...(flags ? [[...flags].sort()] : [])]);
        wake();
    });

const inMailbox = async (mailbox, work) => {
    const lock = await imap.getMailboxLock(mailbox);
    try {
        return await work();
    } finally {
        lock.release();
    }
};

const content = async () => {
    const found = {};
    await imap.noop(); // the mailbox may have been open all the time
    if (imap.mailbox.exists === 0) return found;
    for await (const one of imap.fetch("1:*", { uid: true, flags: true, source: true })) {
        const name = /^Message-ID: <([a-z_0-9]+)@/m.exec(one.source.toString("latin1"))[1];
        found[name] = [one.uid, [...one.flags], createHash("sha256").update(one.source).digest("hex")];
    }
    return found;
};

const actions = {
    create: ({ mailbox }) => imap.mailboxCreate(mailbox),
    rename: ({ mailbox, to }) => imap.mailboxRename(mailbox, to),
    remove: ({ mailbox }) => imap.mailboxDelete(mailbox),
    append: ({ mailbox, content, flags }) => imap.append(mailbox, Buffer.from(content, "base64"), flags),
    flag: ({ mailbox, uid, add, remove }) =>
        inMailbox(mailbox, async () => {
            if (add.length) await imap.messageFlagsAdd(uid, add, byUid);
            await imap.messageFlagsRemove(uid, remove, byUid);
        }),
    delete: ({ mailbox, uid }) => inMailbox(mailbox, () => imap.messageDelete(uid, byUid)),
    move: ({ mailbox, uid, target }) => inMailbox(mailbox, () => imap.messageMove(uid, target, byUid)),
    copy: ({ mailbox, uid, target }) => inMailbox(mailbox, () => imap.messageCopy(uid, target, byUid)),
    compressed: () => imap.streamer.compress, // it asks for COMPRESS by itself
    sync: async () => {
        const mailboxes = {};
        for (const { path } of await imap.list()) mailboxes[path] = await inMailbox(path, content);
        return mailboxes;
    },
    enabled: () => [...imap.enabled].sort(),
    listed: async () => Object.fromEntries((await imap.list()).map((one) => [one.path, one.specialUse ?? ""])),
    quota: ({ mailbox }) => imap.getQuota(mailbox),
    status: ({ mailbox, items }) => imap.status(mailbox, Object.fromEntries(items.map((item) => [item, true]))),
    search: ({ mailbox, query, returnOptions }) =>
        inMailbox(mailbox, () => imap.search(query, { uid: true, ...(returnOptions ? { returnOptions } : {}) })),
    // What is known of each message, and its text part as imapflow decodes it
    describe: ({ mailbox }) =>
        inMailbox(mailbox, async () => {
            const asked = { envelope: true, bodyStructure: true, threadId: true, size: true, internalDate: true };
            const found = {};
            for (const one of await imap.fetchAll("1:*", asked, byUid)) {
                const part = one.bodyStructure.childNodes?.[0].part;
                const { content } = await imap.download(one.uid, part ?? "1", byUid);
                const chunks = await content.toArray();
                const { emailId, threadId, size, envelope, bodyStructure } = one;
                const type = [bodyStructure.type, ...(bodyStructure.childNodes ?? []).map(({ type }) => type)];
                const text = Buffer.concat(chunks).toString();
                found[envelope.subject] = { emailId, threadId, size, from: envelope.from[0].address, type, text };
            }
            return found;
        }),
    // What SELECT told, and the events that came with it
    open: async ({ mailbox, known }) => {
        events.length = 0;
        const since = known && { changedSince: BigInt(known.modSeq), uidValidity: BigInt(known.uidValidity) };
        const opened = await imap.mailboxOpen(mailbox, since);
        const { exists, uidValidity, highestModseq, qresync } = opened;
        return { exists, uidValidity: `${uidValidity}`, modSeq: `${highestModseq}`, qresync, events: [...events] };
    },
    // Resolves once the server has said that it listens
    idle: async () => {
        const from = said.length;
        events.length = 0;
        imap.idle();
        await until(() => said.slice(from).some((line) => line.startsWith("s + ")));
    },
    // The events since the last call, once one of this kind is there
    told: async ({ kind }) => {
        await until(() => events.some((one) => one[0] === kind));
        return events.splice(0);
    },
    said: () => said.splice(0),
};

const tell = (answer) =>
    process.stdout.write(`${JSON.stringify(answer, (_, one) => (typeof one === "bigint" ? Number(one) : one))}\n`);

await imap.connect();
for await (const line of createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    try {
        tell({ ok: (await actions[asked.do](asked)) ?? true });
    } catch (error) {
        tell({ error: `${error.message}: ${error.responseText}` });
    }
}
await imap.logout();
