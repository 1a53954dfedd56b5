// What the tests ask of Thunderbird, run inside it: `run(name, argument)` resolves with what JSON can say.
const { MailServices } = ChromeUtils.importESModule("resource:///modules/MailServices.sys.mjs");
const { setTimeout, clearTimeout } = ChromeUtils.importESModule("resource://gre/modules/Timer.sys.mjs");
const { AccountConfig } = ChromeUtils.importESModule("resource:///modules/accountcreation/AccountConfig.sys.mjs");
const { ConfigVerifier } = ChromeUtils.importESModule("resource:///modules/accountcreation/ConfigVerifier.sys.mjs");
const { CreateInBackend } = ChromeUtils.importESModule("resource:///modules/accountcreation/CreateInBackend.sys.mjs");

const USES = ["Inbox", "SentMail", "Drafts", "Trash", "Archive", "Junk"];
const WAIT_MS = 30000;

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

// Resolves with what `holds()` gives once that is something; it is asked again whenever a folder changes
const until = (holds, what) =>
    new Promise((resolve, reject) => {
        const look = () => {
            let found = null;
            try {
                found = holds();
            } catch {
                return false; // not there yet
            }
            if (!found) return false;
            MailServices.mailSession.RemoveFolderListener(listener);
            clearTimeout(deadline);
            resolve(found);
            return true;
        };
        // Listeners are told in the midst of a change
        const later = () => Services.tm.dispatchToMainThread(look);
        const names = ["Added", "Removed", "PropertyChanged", "IntPropertyChanged", "BoolPropertyChanged", "PropertyFlagChanged", "Event"];
        const listener = Object.fromEntries(names.map((name) => [`onFolder${name}`, later]));
        for (const name of ["Added", "Removed", "PropertyChanged"]) listener[`onMessage${name}`] = later;
        for (const name of ["IntProperty", "BoolProperty", "UnicharProperty", "Property", "PropertyFlag"])
            listener[`onFolder${name}Changed`] = later;
        listener.QueryInterface = ChromeUtils.generateQI(["nsIFolderListener"]);
        const deadline = setTimeout(() => {
            MailServices.mailSession.RemoveFolderListener(listener);
            reject(new Error(`never came: ${what}`));
        }, WAIT_MS);
        MailServices.mailSession.AddFolderListener(listener, Ci.nsIFolderListener.all);
        look();
    });

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
    await url((listener) => account.incomingServer.rootFolder.server.getNewMessages(account.incomingServer.rootFolder, null, listener));
    return account.incomingServer.prettyName;
};

const folders = () =>
    Object.fromEntries(
        server().rootFolder.descendants.map((one) => [
            one.URI,
            [one.name, USES.filter((use) => one.getFlag(Ci.nsMsgFolderFlags[use]))],
        ]),
    );

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

const actions = {
    trust,
    addAccount,
    folders,
    read,
    search,
    open: ({ mailbox }) => url((listener) => folder(mailbox).QueryInterface(Ci.nsIMsgImapMailFolder).updateFolderWithListener(null, listener)),
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
