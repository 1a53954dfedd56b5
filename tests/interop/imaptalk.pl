# A program with Mail::IMAPTalk that calls the method each line of its input names, and answers with one line of JSON.
#   {"call": "search", "args": ["1:*", "UNSEEN"]} -> {"ok": [1, 2]}
# A method that fails is answered {"error": "..."}. {"Octets": "<base64>"} is sent as a literal; octets that come are
# characters up to U+00FF; mailboxes are Unicode.
use strict;
use warnings;
use JSON::PP;
use MIME::Base64;
use Mail::IMAPTalk;

my ($port, $user, $password, $certificate) = @ARGV;
my $json = JSON::PP->new->ascii->allow_nonref->canonical;
$| = 1;

my $imap = Mail::IMAPTalk->new(
    Server        => 'localhost',
    Port          => $port,
    UseSSL        => 1,
    SSL_ca_file   => $certificate,
    UseBlocking   => 1,
    UseCompress   => 1,
    PreserveINBOX => 1,
    Username      => $user,
    Password      => $password,
) or die "no connection: $@";
$imap->set_unicode_folders(1);
$SIG{__WARN__} = sub { };    # of failures that the answer tells

# What the server tells until it tells of `$kind`; {"ok": "listening"} goes out once it says that it listens
sub idle_until {
    my ($kind) = @_;
    my @told;
    $imap->set_tracing(sub { print qq({"ok": "listening"}\n) if $_[0] =~ /^S: \+ idling/ });
    $imap->idle(
        sub {
            my ($what, $value) = @_;
            push @told, [ $what, $value ];
            return $what eq $kind;
        }
    ) or die $@;
    $imap->set_tracing(0);
    return \@told;
}

while (my $line = <STDIN>) {
    my $asked = $json->decode($line);
    my $call = $asked->{call};
    my @args = map { ref eq 'HASH' && $_->{Octets} ? { Literal => decode_base64($_->{Octets}) } : $_ } @{ $asked->{args} };
    my $answer = eval { scalar($call eq 'idle_until' ? idle_until(@args) : $imap->$call(@args)) };
    print $json->encode(defined $answer ? { ok => $answer } : { error => $@ || $imap->get_last_error() }), "\n";
}
$imap->logout();
