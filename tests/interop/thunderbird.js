// What the tests ask of Thunderbird, run inside it: `run(name, argument)` resolves with what JSON can say.
const { MailServices } = ChromeUtils.importESModule("resource:///modules/MailServices.sys.mjs");
const { setTimeout } = ChromeUtils.importESModule("resource://gre/modules/Timer.sys.mjs");
const { AccountConfig } = ChromeUtils.importESModule("resource:///modules/accountcreation/AccountConfig.sys.mjs");
const { ConfigVerifier } = ChromeUtils.importESModule("resource:///modules/accountcreation/ConfigVerifier.sys.mjs");
const { CreateInBackend } = ChromeUtils.importESModule("resource:///modules/accountcreation/CreateInBackend.sys.mjs");

const USES = ["Inbox", "SentMail", "Drafts", "Trash", "Archive", "Junk"];
const WAIT_MS = 30000;
const POLL_MS = 20;

const server = () => MailServices.accounts.defaultAccount.incomingServer;
const folder = (path) =>
    path.split("/").reduce((above, name) => {
        const found = above.subFolders.find((one) => one.name === name || (name === "INBOX" && one.getFlag(Ci.nsMsgFolderFlags.Inbox)));
        if (!found) throw new Error(`no folder ${name} among ${above.subFolders.map((one) => one.name)}`);
        return found;
    }, server().rootFolder);
const all = (path) => [...folder(path).messages];
const message = ({ mailbox, name }) => {
    const found = all(mailbox).find((one) => one.messageId === `${name}@interop.example`);
    if (!found) throw new Error(`no ${name} in ${mailbox}`);
    return found;
};

const failed = (status) => new Error(`ended with 0x${status.toString(16)}`);
const ended = (resolve, reject) => (status) => (Components.isSuccessCode(status) ? resolve(true) : reject(failed(status)));

// Resolves when a URL that `start(listener)` begins has ended
const url = (start) =>
    new Promise((resolve, reject) => {
        const end = ended(resolve, reject);
        start({
            QueryInterface: ChromeUtils.generateQI(["nsIUrlListener"]),
            OnStartRunningUrl() {},
            OnStopRunningUrl: (_, status) => end(status),
        });
    });
const copy = (start) =>
    new Promise((resolve, reject) => {
        const end = ended(resolve, reject);
        start({
            QueryInterface: ChromeUtils.generateQI(["nsIMsgCopyServiceListener"]),
            onStartCopy() {},
            onProgress() {},
            setMessageKey() {},
            getMessageId: () => null,
            onStopCopy: end,
        });
    });

// Resolves with what `holds()` gives once that is something; an error means: not yet
const until = async (holds, what) => {
    const found = () => {
        try {
            return holds();
        } catch {
            return null;
        }
    };
    for (const end = Date.now() + WAIT_MS; Date.now() < end; await new Promise((resolve) => setTimeout(resolve, POLL_MS)))
        if (found()) return found();
    throw new Error(`never came: ${what}`);
};

const trust = async ({ host, ports, certificate }) => {
    const database = Cc["@mozilla.org/security/x509certdb;1"].getService(Ci.nsIX509CertDB);
    const overrides = Cc["@mozilla.org/security/certoverride;1"].getService(Ci.nsICertOverrideService);
    for (const port of ports) overrides.rememberValidityOverride(host, port, {}, database.constructX509FromBase64(certificate), true);
};

// As the account dialogue does once it has the settings: sign in with them, then keep them
const addAccount = async ({ host, imapsPort, submissionsPort, user, password }) => {
    const config = new AccountConfig();
    const common = { hostname: host, username: user, password, socketType: Ci.nsMsgSocketType.SSL, auth: Ci.nsMsgAuthMethod.passwordCleartext };
    Object.assign(config.incoming, common, { type: "imap", port: imapsPort });
    Object.assign(config.outgoing, common, { type: "smtp", port: submissionsPort });
    config.identity = { realname: "Анна", emailAddress: user };
    config.rememberPassword = true;
    const verifier = new ConfigVerifier(null, new AbortController().signal);
    const account = await CreateInBackend.createAccountInBackend(await verifier.verifyConfig(config, false));
    account.incomingServer.getNewMessages(account.incomingServer.rootFolder, null, null);
    await until(() => USES.every((use) => account.incomingServer.rootFolder.getFolderWithFlags(Ci.nsMsgFolderFlags[use])), "mailboxes");
    return account.incomingServer.prettyName;
};

const folders = () => server().rootFolder.descendants.map((one) => [one.name, USES.filter((use) => one.getFlag(Ci.nsMsgFolderFlags[use]))]);

const read = async ({ mailbox, name }) => {
    const uri = folder(mailbox).getUriForMsg(message({ mailbox, name }));
    const chunks = [];
    await new Promise((resolve, reject) => {
        const end = ended(resolve, reject);
        MailServices.messageServiceFromURI(uri).streamMessage(
            uri,
            {
                QueryInterface: ChromeUtils.generateQI(["nsIStreamListener"]),
                onStartRequest() {},
                onStopRequest: (_, status) => end(status),
                onDataAvailable: (_, stream, __, count) => {
                    const octets = Cc["@mozilla.org/binaryinputstream;1"].createInstance(Ci.nsIBinaryInputStream);
                    octets.setInputStream(stream);
                    chunks.push(octets.readBytes(count));
                },
            },
            null,
            null,
            false,
            "",
            false,
        );
    });
    return btoa(chunks.join(""));
};

const search = ({ mailbox, field, text }) =>
    new Promise((resolve, reject) => {
        const session = Cc["@mozilla.org/messenger/searchSession;1"].createInstance(Ci.nsIMsgSearchSession);
        const found = [];
        session.addScopeTerm(Ci.nsMsgSearchScope.onlineMail, folder(mailbox));
        const term = session.createTerm();
        const value = term.value;
        value.attrib = Ci.nsMsgSearchAttrib[field];
        value.str = text;
        Object.assign(term, { attrib: value.attrib, value, op: Ci.nsMsgSearchOp.Contains, booleanAnd: true });
        session.appendTerm(term);
        const end = ended(() => resolve(found.sort()), reject);
        session.registerListener(
            {
                QueryInterface: ChromeUtils.generateQI(["nsIMsgSearchNotify"]),
                onNewSearch() {},
                onSearchHit: (header) => found.push(header.messageId.split("@")[0]),
                onSearchDone: end,
            },
            Ci.nsIMsgSearchSession.allNotifications,
        );
        session.search(null);
    });

// The header of what is sent comes from the identity; the copy goes to the mailbox with the use \\Sent
const send = ({ to, subject, text }) =>
    new Promise((resolve, reject) => {
        const identity = MailServices.accounts.defaultAccount.defaultIdentity;
        const fields = Cc["@mozilla.org/messengercompose/composefields;1"].createInstance(Ci.nsIMsgCompFields);
        Object.assign(fields, { from: identity.email, to, subject });
        Cc["@mozilla.org/messengercompose/send;1"].createInstance(Ci.nsIMsgSend).createAndSendMessage(
            null, identity, null, fields, false, false, Ci.nsIMsgCompDeliverMode.Now, null, "text/plain", text, null, null,
            {
                QueryInterface: ChromeUtils.generateQI(["nsIMsgSendListener", "nsIMsgCopyServiceListener"]),
                onStartSending() {},
                onSendProgress() {},
                onStatus() {},
                onProgress() {},
                onGetDraftFolderURI() {},
                onTransportSecurityError: (_, status) => reject(failed(status)),
                onSendNotPerformed: (_, status) => reject(failed(status)),
                onStopSending: (_, status) => Components.isSuccessCode(status) || reject(failed(status)),
                onStartCopy() {},
                setMessageKey() {},
                getMessageId: () => null,
                onStopCopy: ended(resolve, reject),
            },
            null, null, Ci.nsIMsgCompType.New,
        );
    });

const actions = {
    send,
    rename: ({ mailbox, to }) => {
        folder(mailbox).rename(to, null);
        return until(() => folder([...mailbox.split("/").slice(0, -1), to].join("/")), to).then(() => true);
    },
    trust,
    addAccount,
    folders,
    read,
    search,
    open: ({ mailbox }) => folder(mailbox).updateFolder(null),
    create: ({ mailbox }) => {
        const above = mailbox.split("/");
        const name = above.pop();
        const parent = above.length ? folder(above.join("/")) : server().rootFolder;
        parent.createSubfolder(name, null);
        return until(() => folder(mailbox), mailbox).then(() => true);
    },
    awaitMailbox: ({ mailbox }) => until(() => folder(mailbox), mailbox).then(() => true),
    awaitMessage: (asked) => until(() => message(asked), JSON.stringify(asked)).then(() => true),
    awaitGone: (asked) => until(() => !all(asked.mailbox).some((one) => one.messageId === `${asked.name}@interop.example`), JSON.stringify(asked)),
    awaitState: (asked) =>
        until(() => {
            const { isRead, isFlagged } = message(asked);
            const tags = message(asked).getStringProperty("keywords").split(" ");
            return isRead === asked.isRead && isFlagged === asked.isFlagged && asked.tags.every((tag) => tags.includes(tag));
        }, JSON.stringify(asked)),
    subject: (asked) => message(asked).mime2DecodedSubject,
    markRead: (asked) => folder(asked.mailbox).markMessagesRead([message(asked)], asked.isRead),
    markFlagged: (asked) => folder(asked.mailbox).markMessagesFlagged([message(asked)], asked.isFlagged),
    tag: (asked) => folder(asked.mailbox).addKeywordsToMessages([message(asked)], asked.keyword),
    untag: (asked) => folder(asked.mailbox).removeKeywordsFromMessages([message(asked)], asked.keyword),
    move: (asked) =>
        copy((listener) =>
            MailServices.copy.copyMessages(folder(asked.mailbox), [message(asked)], folder(asked.target), asked.isMove, listener, null, false),
        ),
    remove: (asked) => copy((listener) => folder(asked.mailbox).deleteMessages([message(asked)], null, false, false, listener, false)),
    compact: ({ mailbox }) => url((listener) => folder(mailbox).compact(listener, null)),
};

const run = async (name, asked) => {
    const answer = await actions[name](asked);
    return answer === undefined ? true : answer;
};
