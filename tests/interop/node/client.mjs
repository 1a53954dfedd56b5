// A program with imapflow that does what each line of its input asks, and answers each with one line of JSON.
//   {"do": "append", "mailbox": "INBOX", "content": "<base64>", "flags": ["\\Seen"]} -> {"ok": true}
//   {"do": "sync"} -> {"ok": {"INBOX": {"plain": [1, ["\\Seen"], "<sha256>"]}}}
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { ImapFlow } from "imapflow";

const [port, user, pass, certificate] = process.argv.slice(2);
const imap = new ImapFlow({
    host: "localhost",
    port: Number(port),
    secure: true,
    tls: { ca: readFileSync(certificate) },
    auth: { user, pass },
    logger: false,
});
const byUid = { uid: true };

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
    append: ({ mailbox, content, flags }) => imap.append(mailbox, Buffer.from(content, "base64"), flags),
    flag: ({ mailbox, uid, add, remove }) =>
        inMailbox(mailbox, async () => {
            if (add.length) await imap.messageFlagsAdd(uid, add, byUid);
            await imap.messageFlagsRemove(uid, remove, byUid);
        }),
    delete: ({ mailbox, uid }) => inMailbox(mailbox, () => imap.messageDelete(uid, byUid)),
    move: ({ mailbox, uid, target }) => inMailbox(mailbox, () => imap.messageMove(uid, target, byUid)),
    compressed: () => imap.streamer.compress, // it asks for COMPRESS by itself
    sync: async () => {
        const mailboxes = {};
        for (const { path } of await imap.list()) mailboxes[path] = await inMailbox(path, content);
        return mailboxes;
    },
};

const tell = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);

await imap.connect();
for await (const line of createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    try {
        const answer = await actions[asked.do](asked);
        tell({ ok: asked.do === "sync" ? answer : answer !== false });
    } catch (error) {
        tell({ error: `${error.message}: ${error.responseText}` });
    }
}
await imap.logout();
