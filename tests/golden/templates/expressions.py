"""Small templates whose results pin down the language: literals, operators, filters, tests, methods, statements,
white space, scoping and errors."""

VARS = {
    "s": "Hello World", "u": "Grüße, Ελλάδα 日本 ß", "e": "", "n": 7, "neg": -3, "f": 2.5, "big": 12345678901234567890,
    "t": True, "no": False, "nil": None, "l": [3, 1, 2], "words": ["b", "A", "c", "a"], "empty": [], "d": {"b": 1, "a": 2},
    "users": [{"name": "bob", "age": 30, "on": True, "tags": ["x"]}, {"name": "Ann", "age": 25, "on": False},
              {"name": "cy", "age": 30, "on": True}],
    "nested": {"items": {"x": [1, {"y": "z"}]}, "keys": "k", "1": "one", "get": 5},
    "html": "<a href=\"x\">'&'</a>", "lines": "a\nb\n\n  c\r\nd", "mixed": [1, 1.0, True, None, "x", [1], {"k": "v"}],
}

OUTPUT = r"""
1|1.0|1.5|-0.0|1e3|1e16|1e15|1e-5|0.0001|123456789012345680.0|1_000|0x1F|0o17|0b101|1.5e300|0.1+0.2|1/3|2/1|10//3|-7//2|7//-2
-7%3|7%-3|7.5%2|2**10|2**-1|2.0**3|-2**2|1-2-3|2*3+4|2+3*4|(2+3)*4|7//2.0|1e308*10|+5|-n|--n|n-1|true+1|true+true|not 1
'a'|"b"|'a' 'b' "c"|'it\'s'|"q\"q"|'\n'|'\t|'|'\\'|'\x41'|'\u00e9'|'\U0001F600'|'\101'|'\q'|'é'
none|None|true|True|false|False|[]|()|{}|(1,)|(1)|(1,2)|[1,]|{'a':1,}|[1,[2,(3,)],{'k':none}]|{1:2,'x':[true]}
'a'+'b'|[1]+[2]|(1,)+(2,)|'ab'*3|3*'ab'|[0]*3|'x'*0|'x'*-1|'a'~1~none~1.5~[1]|1~2|s~n
1==1.0|1==true|'1'==1|none==none|none==false|[1,2]==[1,2]|(1,)==[1]|{'a':1}=={'a':1.0}|{'a':1,'b':2}=={'b':2,'a':1}|'a'!='b'
1<2|2<=2|'a'<'b'|'Z'<'a'|[1,2]<[1,3]|(1,2)<(1,2,0)|1<1.5|true<2|1<2<3|1<3<2|3>2>1|1==1.0==true|'a'<'b'<='b'
1 in [1,2]|3 in l|3 not in l|'ell' in s|'' in s|'a' in d|1 in d|'x' not in d|none in [none]|1.0 in [1]|x in []|'a' in undefinedthing
1 and 2|0 and 2|0 or 3|'' or 'x'|none or 0|1 or x.y|0 and x.y|not ''|not not 'a'|false and 1|false or false|[] or {}|1 and false
1 and 0 and x.y|'' or [] or none|(none and 1) is none|false and false|(1 and false) is false|true and false or 'z'
1 if true else 2|1 if false else 2|'x' if 0|(1 if 0) is undefined|false if true else 1|1 if 0 else 2 if 0 else 3|'a' if n > 3 and t else 'b'
s[0]|s[-1]|s[1:3]|s[:-1]|s[::-1]|s[::2]|s[5:2]|s[-3:]|s[99]|s[100:]|u[2]|u[-1]|u[2:6]|u[::-1]|u[-3:]|s[:]|s[1:9:3]|s[9:1:-2]
l[0]|l[-1]|l[1:]|l[::-1]|l[:2]|l[5]|l[-9]|l['0']|l[true]|l[1.0]|l.0|(1,2,3)[1:]|(1,2)[0]|range(5)[2]|range(5)[1:3]|[1,2,3][-2:]
d.a|d['a']|d.zz|d['zz']|d.items|nested.items.x|nested['items'].x[1].y|nested.keys|nested['keys']|nested['1']|nested.get('1')|nested['get']
users[0].name|users[0]['tags'][0]|users[1].tags|users|nested|mixed|nil.x|nil['x']|n.x|s.zz|t.x
d.get('a')|d.get('q')|d.get('q','w')|d.get('q',none)|d.get(key='a')|d.keys()|d.values()|d.items()|d.items()|list|d.keys()|list|d.items()|length
d.copy()|'a' in d.keys()|d.items()|first|dict(a=1)|dict(d,c=3)|dict([('x',1)])|dict()|dict(a=1)==d|d|length|d|list|d|first|d|last
l.index(1)|l.count(3)|l.copy()|(1,2,1).count(1)|[1,1.0,true].count(1)
s.upper()|s.lower()|s.title()|s.capitalize()|s.swapcase()|u.upper()|u.lower()|u.title()|u.capitalize()|'ΣΑΣ'.lower()|'straße'.upper()|'ÀÉ'.lower()
'они'.upper()|'ПРИВЕТ'.capitalize()|"they're bill's".title()|"they're bill's"|title|'foo-bar (baz)'|title|'x2y'.title()|'x2y'|title|'éa'|title
'  a b '.strip()|'  a '.lstrip()~'|'|'  a '.rstrip()~'|'|'xxaxx'.strip('x')|'abcba'.lstrip('ab')|'abcba'.rstrip('ab')|' x '.strip(none)|'éaé'.strip('é')
'a b  c'.split()|' a b '.split(' ')|'a,b,c'.split(',',1)|'a,b,c'.split(',')|''.split()|''.split(',')|'a  b c'.split(none,1)|'abc'.split('abc')|'a,b'.split(sep=',')|'a,b,c'.split(',',maxsplit=1)
'a,b,c'.rsplit(',',1)|'a b c'.rsplit(none,1)|' a b '.rsplit()|'a--b--c'.rsplit('--')|'x'.rsplit(',',1)|' a b c '.rsplit(maxsplit=1)
lines.splitlines()|lines.splitlines(true)|''.splitlines()|'a\n'.splitlines()|'a\x0bb\x1cc\u2028d\x85e'.splitlines()
s.startswith('He')|s.startswith('el',1)|s.startswith(('x','He'))|s.endswith('ld')|s.endswith(('a','d'))|s.endswith('')|s.startswith('')|s.endswith('lo',0,5)|s.startswith(())
s.find('o')|s.find('z')|s.rfind('o')|s.find('o',5)|s.find('o',5,6)|s.index('W')|u.find('Ε')|u.index('本')|s.find('')|s.rfind('')|s.count('l')|s.count('')|'aaa'.count('aa')
s.replace('l','L')|s.replace('l','L',1)|'abc'.replace('','-')|'abc'.replace('','-',2)|s.replace('zz','y')|'aaa'.replace('a','')|'a.b'.replace('.','%1')
'-'.join(['a','b'])|''.join([])|', '.join(words)|'-'.join('abc')|'-'.join(d)|'é'.join('ab')
'12'.isdigit()|''.isdigit()|'1.2'.isdigit()|'abc'.isalpha()|'a1'.isalnum()|' \t'.isspace()|'ab'.islower()|'AB'.isupper()|'Ab Cd'.istitle()|'²'.isdigit()|'²'.isdecimal()|'½'.isnumeric()|'é'.isalpha()|'é'.isascii()|'日本'.isalpha()|'a_1'.isidentifier()|'1a'.isidentifier()|'A1'.isupper()|'é'.islower()
'a-b-c'.partition('-')|'a-b-c'.rpartition('-')|'abc'.partition('-')|'abc'.rpartition('-')|'abc'.removeprefix('a')|'abc'.removesuffix('c')|'abc'.removesuffix('x')
'5'.zfill(3)|'-5'.zfill(4)|'ab'.ljust(4)~'|'|'ab'.rjust(4,'*')|'ab'.center(5,'*')|'abc'.center(6,'*')|'a\tb'.expandtabs(4)|'日'.ljust(3,'-')
'%s'%'x'|'%s %s'%(1,2)|'%d'%3.7|'%05d'%42|'%-5d|'%42|'%+d'%5|'%.2f'%3.14159|'%x'%255|'%X'%255|'%o'%8|'%e'%12345.678|'%g'%0.0001|'%c'%65|'%r'%'a'|'%%'%()|'%5.1f|'%2.25|'%(a)s-%(b)d'%d|'%s'%none|'%s'%[1]|'%#x'%255|'%*d'%(5,42)|'%.3s'%'abcdef'
'{} {}'.format(1,'a')|'{0}{1}{0}'.format('a','b')|'{x}'.format(x=1)|'{:>5}'.format('a')|'{:<5}|'.format('a')|'{:^5}'.format('a')|'{:05d}'.format(42)|'{:.2f}'.format(3.14159)|'{:,}'.format(1234567)|'{!r}'.format('a')|'{{}}'.format()|'{a[b]}'.format(a=d)|'{0.name}'.format(users[0])|'{:x}'.format(255)|'{:>{w}}'.format('a',w=4)|'{:%}'.format(0.5)|'{:*^7}'.format('mid')|'{:+}'.format(5)|'{}'.format(1.0)|'{:e}'.format(1234.5)|'{:_}'.format(1234567)|'{:08.3f}'.format(3.14159)|'{:d}'.format(true)|'{:b}'.format(5)
n is number|f is number|t is number|s is number|n is integer|f is integer|t is integer|f is float|n is float|t is boolean|n is boolean|s is string|l is string|nil is none|x is none|x is defined|s is defined|x is undefined|d.zz is defined|d.a is defined
l is sequence|s is sequence|d is sequence|(1,) is sequence|n is sequence|range(2) is sequence|d.items() is sequence|l|map('string') is sequence|x is sequence
l is iterable|s is iterable|d is iterable|n is iterable|nil is iterable|range(2) is iterable|l|map('string') is iterable|x is iterable
d is mapping|l is mapping|s is mapping|x is mapping|namespace() is mapping|dict() is mapping
n is odd|n is even|6 is divisibleby 3|7 is divisibleby(2)|n is eq 7|n is equalto(7)|n == 7 is true|n is ne 8|n is gt 3|n is ge 7|n is lt 3|n is le 7|n is greaterthan 1|n is lessthan 1|2 is in [1,2]|'a' is in d|s is sameas s|none is sameas none
true is true|1 is true|false is false|0 is false|'abc' is lower|'ABC' is upper|'Abc' is lower|range is callable|s is callable|'upper' is filter|'nope' is filter|'odd' is test|s|safe is escaped|s is escaped
n is not number|x is not defined|not x is defined|n is not none and t|not n is odd or f|s is string and n is number|n is defined == true|(n is odd) == true
s|upper|s|lower|'hello wOrld'|title|'hELLO'|capitalize|'  a '|trim|'xax'|trim('x')|n|string|nil|string|f|upper|[1]|lower
s|length|u|length|l|length|d|length|e|length|s|count|range(3)|length|x|length|'日本語'|length
l|first|l|last|empty|first|s|first|s|last|d|first|range(3)|last|u|last|(l|first)|string
l|join|l|join(', ')|words|join(d='-')|users|join(', ', attribute='name')|s|join('-')|empty|join|[1,none,true]|join('|')|d|join
l|sort|words|sort|words|sort(case_sensitive=true)|words|sort(reverse=true)|users|sort(attribute='age')|map(attribute='name')|list|users|sort(attribute='age,name')|map(attribute='name')|list|[1,0.5,true]|sort|l|sort|first
l|min|l|max|words|min|words|max(case_sensitive=true)|users|min(attribute='age')|users|max(attribute='age')|empty|min|empty|max is undefined
l|sum|empty|sum|users|sum(attribute='age')|[1,2.5]|sum|l|sum(start=10)|[[1],[2]]|sum(start=[])
words|unique|list|[1,1.0,true,2]|unique|list|users|unique(attribute='age')|list|length|words|unique(case_sensitive=true)|list|'aAb'|unique|join
l|reverse|list|s|reverse|range(4)|reverse|list|l|reverse|join|(1,2)|reverse|list|d|reverse|list
l|map('string')|list|words|map('upper')|join|users|map(attribute='name')|list|users|map(attribute='tags',default='none')|list|users|map(attribute='tags.0',default='q')|list|['a b']|map('replace',' ','_')|list|l|map('multiply')|length if false else 0|[[1,2],[3]]|map('first')|list|[[1,2]]|map('join','-')|list|['1','2']|map('int')|sum|empty|map|list
l|select('odd')|list|l|reject('odd')|list|l|select|list|[0,1,'']|select|list|[0,1]|reject|list|users|selectattr('on')|map(attribute='name')|list|users|rejectattr('on')|map(attribute='name')|list|users|selectattr('age','gt',26)|map(attribute='name')|list|users|selectattr('name','equalto','bob')|list|length|users|selectattr('tags','defined')|list|length|users|rejectattr('tags','undefined')|list|length|l|select('in',[1,2])|list|users|selectattr('age','==',30)|first|items|list|l|select('>',1)|list
d|items|list|x|items|list|d|dictsort|{'B':1,'a':2}|dictsort|{'B':1,'a':2}|dictsort(true)|d|dictsort(by='value')|d|dictsort(reverse=true)|d|dictsort(false,'value',true)|{}|dictsort
users|groupby('age')|map('first')|list|users|groupby('age')|map('last')|map('length')|list|users|groupby('age')|first|first|words|groupby(0)|length|users|groupby('tags',default='')|length if false else 1
l|batch(2)|list|l|batch(2,'x')|list|range(7)|batch(3)|list|l|slice(2)|list|range(7)|slice(3)|list|range(7)|slice(3,'-')|list
x|default('d')|nil|default('d')|nil|default('d',true)|e|default('d',boolean=true)|x|default|x|d('q')|0|default(5)|0|default(5,true)|d.zz|default('w')|(1 if 0)|default('u')|x|default(none)|default_value if default_value else 'z'
'3'|int|'3.7'|int|'x'|int|'x'|int(5)|'0x1f'|int(base=16)|'1f'|int(0,16)|3.9|int|-3.9|int|nil|int|'  4 '|int|'1_000'|int|true|int|'1e3'|int|'-5'|int|'+5'|int|''|int
'3.5'|float|'x'|float|'x'|float(1.5)|3|float|'1e3'|float|nil|float|' 2 '|float|'inf'|float|'.5'|float|'5.'|float
3.14159|round(2)|2.5|round|3.5|round|-2.5|round|7|round|2.1|round(method='ceil')|2.9|round(0,'floor')|1234.5|round(-2)|1250|round(-2)|2.675|round(2)|0.5|round|3|round(1)|5|round(method='ceil')
-3|abs|neg|abs|-2.5|abs|true|abs|'a b\tc, d-e'|wordcount|u|wordcount|''|wordcount
'a\nb\n\nc'|indent|'a\nb'|indent(2)|'a\nb'|indent(2,true)|'a\n\nb'|indent(2,blank=true)|'a\nb'|indent('>>')|'a'|indent(width=3,first=true)|''|indent|'a\nb\n'|indent(2)
html|e|html|escape|html|safe|(html|safe)|e|'<'|forceescape|html|striptags|'<b>'~('x'|safe)|'<b>'+('x'|safe)|('<i>'|safe)+'<b>'|('a'|safe)*2|('a,b'|safe).split(',')|('Ab'|safe)|upper|('%s'|safe)%1|(d|tojson|safe)
[s,s|safe]|('x'|safe)|length|('abc'|safe)[1:]|('abc'|safe).upper()|('a'|safe)=='a'|'a' in ('abc'|safe)|['<'|safe,'<']|join|('a'|safe)~'<'
s|replace('o','0')|s|replace('l','1',2)|n|replace(7,8)|s|replace('','.')|s|truncate(8)|s|truncate(5,true)|s|truncate(9,true,'',0)|s|truncate(8,false,'..',0)|s|center(15)|'a b&c'|urlencode|{'a b':'c/d','e':1}|urlencode|'é/x'|urlencode
'%s-%s'|format('a',1)|'%(x)s'|format(x=5)|1000|filesizeformat|1|filesizeformat|1500000|filesizeformat|2048|filesizeformat(true)|999|filesizeformat
d|tojson|l|tojson|s|tojson|html|tojson|u|tojson|u|tojson(ensure_ascii=true)|nil|tojson|t|tojson|f|tojson|1.0|tojson|1e20|tojson|big|tojson|nested|tojson|[]|tojson|{}|tojson|(1,2)|tojson|'\x7f\x01\n\t"\\/'|tojson|'🎉'|tojson(ensure_ascii=true)
nested|tojson(indent=2)|l|tojson(indent=4)|[]|tojson(indent=2)|{'a':{}}|tojson(indent=2)|d|tojson(separators=(',',':'))|d|tojson(indent=1,separators=(',',': '))|d|tojson(sort_keys=true)|{1:1,none:2,true:3,1.5:4}|tojson|[[],[[]]]|tojson(indent=0)|l|tojson(indent='--')|d|tojson(none)|{'b':{'d':1,'c':2},'a':0}|tojson(sort_keys=true,indent=1)
big|string|big|int|[big]|big == big|big is number|big is integer
range(3)|range(3)|list|range(1,10,3)|list|range(5,0,-2)|list|range(0)|list|range(3)|string|range(2,5)|range(1,9,2)|3 in range(5)|range(2)+[] if false else 1
mixed|string|[s,u,'it\'s','"',"'\"",'\n\t\x00\x7f\xa0','\u200b','😀']|{'é':'日'}|[1.0,1e22,1e-7,-0.0,1.5]|[true,none,false]|('a',)|[[[]]]|{'a':{'b':()}}
namespace(a=1)|namespace({'a':1},b=2).b|namespace(a=1).zz|cycler('a','b').next()|cycler('a','b').current|joiner()()
strftime_now('%Y-%m-%d')|strftime_now('%d %b %Y %H:%M:%S')|strftime_now('%-d %B, %A %j %y %p %I %%')
s.split(' ')[0].upper()[::-1]|(s.split()|last).lower()|s.split()|map('length')|list|s|lower|replace('l','')|title|(s|length)+1|-n|abs|(-n)|abs|-(n|abs)|n|string~'x'|'a'~'b'|upper|1+2|string|2**3**2|-2**2|2 ** -1|7 // 2 * 2|not n == 7|not (n == 7)|1 + 2 ~ 3
(words|map('lower')|list)[0]|(d|dictsort|first)[1]|[1,2,3]|last+1|{'a':l}['a'][1]|{'a':[1,{'b':2}]}.a[1].b|[d,d][1]['a']|"x" "y"|length|users|map(attribute='name')|map('upper')|join('+')|'abc'|list|'abc'|first|upper
l[:2]+l[2:]|l[n]|l[-n]|l['x']|s['upper']|(s['upper'])()|s[1:][1:]|u[3:][:2]|l[none:2]|l[::none]|s[true:]|'abc'[-2]|'é日x'[1]
"""

ERRORS = r"""
x.y|x['y']|x.y.z|x()|x+1|1+x|x*2|-x|x<1|x[1:]|x|int|nil.x.y|d.zz.q|d['zz']['q']|l[9].q|users[1].tags[0]|s.zz()|s.zz.q|nil()|n()|l.zz|abs
'a'+1|1+'a'|'a'+none|[1]+(2,)|none+1|'a'-'b'|{}+{}|'a'*'b'|[1]*1.5|1<'a'|'a'<1|none<1|none>1|1>=none|{}<{}|[1]<['a']|l<1|1 in 5|1 in 'abc'|1 in nil|x in 'abc'
1/0|1//0|1%0|1.0/0|0**-1|-'a'|+none|nil[1:]|n[1:]|d[1:]|l['a':]|l[::0]|d[[1]]|n|length|nil|length|l|map('string')|length
d.pop('a')|d.update({})|d.clear()|d.setdefault('q',1)|l.append(1)|l.pop()|l.sort()|l.extend([])|l.insert(0,1)|l.reverse()|l.remove(3)|d.popitem()
s.__class__|s.__class__.__mro__|d.__init__.__globals__|l.__len__()|''.__class__.__base__|range.__globals__|namespace.__init__
raise_exception('boom')|raise_exception('Ünï "q" \'s\'')|raise_exception(none)|raise_exception(1)|raise_exception('a'~n)
range(200000)|range(1,2,0)|range('a')|range()|l.index(99)|s.index('zz')|'a'.split('')|'a'.join([1])|'a'.join(5)|'-'.join([1,2])|s.startswith(1)|s.replace(1,2)|s.replace('a')|s.strip(1)|s.split(1)|'%d'%'a'|'%s %s'%1|'%s'%(1,2)|'%z'%1|'%'%1|'{'.format()|'{}'.format()|'{a}'.format()|'}'.format()|'{1}'.format(0)
l|join(1,2,3,4)|s|upper(1)|s|replace|s|nope|s is nope|s|default(zz=1)|'a'|sort(q=1)|n|list|n|join|n|sort|[1,'a']|sort|[none,1]|sort|[1,'a']|min|[{}]|unique|list|d|dictsort(by='x')|l|dictsort|n|items|l|last|length|l|map|list|l|map('nope')|list|l|select('nope')|list|l|map('string')|last|l|first.zz.y|x|tojson|[x]|tojson|range(3)|tojson|namespace()|tojson|{(1,2):3}|tojson
dict(1)|dict([1])|namespace(1)|namespace(_x=1)|cycler()|loop|loop.index|s|indent|n|indent|x|indent|n|round('x')|s|round|n|round(0,'zz')|s|abs|'a'|int.q.z|1.5|filesizeformat(1,2)|s|center(none)|[]|random|first
"""

STATEMENTS = r"""
{% if n > 5 %}A{% elif n > 3 %}B{% else %}C{% endif %}
{% if x %}A{% elif e %}B{% elif l %}C{% else %}D{% endif %}
{% if n %}{% if no %}1{% else %}2{% endif %}{% endif %}
{% if 1, %}t{% endif %}
{% for i in l %}{{ i }},{% endfor %}
{% for i in l %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.first }}/{{ loop.last }}/{{ loop.length }} {% endfor %}
{% for i in l %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }} {% endfor %}
{% for i in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}
{% for i in l %}{{ loop.previtem.x if not loop.first }}{% endfor %}
{% for i in [1,1,2,2] %}{{ loop.changed(i) }} {% endfor %}
{% for i in range(5) %}{{ loop.cycle('a','b') }}{% endfor %}
{% for i in empty %}x{% else %}none{% endfor %}
{% for i in l %}x{% else %}none{% endfor %}
{% for i in x %}x{% else %}undefined{% endfor %}
{% for i in l if i > 1 %}{{ i }}{% endfor %}
{% for i in l if i > 1 %}{{ loop.index }}{{ i }}{{ loop.last }} {% endfor %}
{% for i in l if i > 9 %}{{ i }}{% else %}no{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k, v in d|items %}{{ k }}={{ v }};{% endfor %}
{% for k in d %}{{ k }}{{ d[k] }}{% endfor %}
{% for a, (b, c) in [(1, (2, 3)), (4, (5, 6))] %}{{ a }}{{ b }}{{ c }} {% endfor %}
{% for a, b in [[1,2],'xy'] %}{{ a }}-{{ b }} {% endfor %}
{% for c in 'aé日' %}[{{ c }}]{% endfor %}
{% for a, b in [[1,2,3]] %}{% endfor %}
{% for a, b in [[1]] %}{% endfor %}
{% for a, b in [1] %}{% endfor %}
{% for i in 5 %}{% endfor %}
{% for i in none %}{% endfor %}
{% for i in l %}{% for j in words %}{{ loop.index }}{{ j }}{% endfor %}|{{ loop.index }} {% endfor %}
{% for i in l %}{% set outer = loop %}{% for j in [1,2] %}{{ outer.index }}.{{ loop.index }} {% endfor %}{% endfor %}
{% for i in l %}{% if i == 1 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% for i in l %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}
{% for i in l %}{% continue %}{% else %}else{% endfor %}
{% for i in l %}{% break %}{% else %}else{% endfor %}
{% for i in l %}{% for j in l %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}
{% for i in range(6) %}{% if i is odd %}{% continue %}{% elif i > 3 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% for item in [{'n':1,'c':[{'n':2,'c':[]},{'n':3}]},{'n':4}] recursive %}{{ item.n }}@{{ loop.depth }}{{ loop.depth0 }}{% if item.c %}({{ loop(item.c) }}){% endif %}{% endfor %}
{% for i in l recursive %}{{ i }}{% else %}e{% endfor %}{% for i in [] recursive %}{{ i }}{% else %}e{% endfor %}
{% for i in l %}{{ loop(l) }}{% endfor %}
{% set a = 1 %}{{ a }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}
{% set a, b = l %}{{ a }}
{% set a = 1, 2 %}{{ a }}
{% set a %}x{{ n }}y{% endset %}[{{ a }}]
{% set a | upper %}x{{ n }}y{% endset %}[{{ a }}]
{% set a | replace('x', 'z') | upper %}x{{ n }}y{% endset %}[{{ a }}]
{% set a %}<b>{% endset %}{{ a + '<' }}{{ a|length }}
{% set a = 1 %}{% for i in l %}{% set a = i %}{{ a }}{% endfor %}{{ a }}
{% set a = 1 %}{% for i in l %}{{ a }}{% set a = a + i %}{{ a }} {% endfor %}{{ a }}
{% for i in l %}{% set a = i %}{% endfor %}{{ a is defined }}
{% for i in l %}{% if loop.first %}{% set q = 'Q' %}{% endif %}{{ q }}-{% endfor %}
{% set q = 'o' %}{% for i in l %}{% if loop.first %}{% set q = 'Q' %}{% endif %}{{ q }}-{% endfor %}{{ q }}
{% if t %}{% set a = 5 %}{% endif %}{{ a }}
{% if no %}{% set a = 5 %}{% endif %}{{ a is defined }}{{ a }}
{% if no %}{% set n = 5 %}{% endif %}{{ n }}
{% if no %}{% set n = 5 %}{% else %}{% set n = 6 %}{% endif %}{{ n }}
{{ n }}{% set n = n + 1 %}{{ n }}
{% set n = n + 1 %}{{ n }}
{% set ns = namespace(c=0) %}{% for i in l %}{% set ns.c = ns.c + i %}{% endfor %}{{ ns.c }}
{% set ns = namespace() %}{% set ns.a, ns.b = 1, 2 %}{{ ns.a }}{{ ns.b }}
{% set ns = namespace() %}{% set ns.a %}block{% endset %}{{ ns.a }}
{% set ns = namespace(x=[]) %}{% for i in l %}{% set ns.x = ns.x + [i] %}{% endfor %}{{ ns.x }}{{ ns['x'] }}
{% set d.a = 1 %}
{% set zz.a = 1 %}
{% set ns = namespace() %}{% set ns._a = 1 %}
{% set ns = namespace(found=false) %}{% for i in l if not ns.found %}{{ i }}{% set ns.found = true %}{% endfor %}
{% macro f(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(1, c=4) }} {{ f(b=1, a=0) }} {{ f() }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(b=2) }}
{% macro f(a) %}{{ a.b }}{% endmacro %}{{ f() }}
{% macro f(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}
{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, x=3) }}{{ f() }}
{% macro f(a) %}{{ a }}{{ kwargs.z }}{% endmacro %}{{ f(1, z=3) }}
{% macro f() %}[{{ caller() }}]{% endmacro %}{% call f() %}in{% endcall %}
{% macro f() %}[{{ caller(1, b=2) }}]{% endmacro %}{% call(a, b) f() %}{{ a }}{{ b }}{{ n }}{% endcall %}
{% macro f() %}[{{ caller() }}]{% endmacro %}{{ f() }}
{% macro f() %}{{ caller is defined }}{% endmacro %}{{ f() }}{% call f() %}{% endcall %}
{% macro f(x) %}{% if x > 0 %}{{ x }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(4) }}
{% macro f() %}{{ n }}{% set n = 1 %}{{ n }}{% endmacro %}{{ f() }}{{ n }}
{% macro f() %}{{ later }}{% endmacro %}{% set later = 'L' %}{{ f() }}
{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}G{% endmacro %}{{ f() }}
{% for i in l %}{% macro f() %}{{ i }}{% endmacro %}{{ f() }}{% endfor %}
{% macro f(l) %}{% for i in l %}{{ i }}{% endfor %}{% endmacro %}{{ f([7,8]) }}{{ f(l)|length }}
{% macro f() %} x {% endmacro %}{{ f()|trim }}{{ f() ~ 'y' }}{% set r = f() %}[{{ r }}]
{% macro f() %}x{% endmacro %}{{ f }} {{ f.name }} {{ f is callable }} {{ f is string }}
{% macro f(a, a2=none) %}{{ a2 is none }}{% endmacro %}{{ f(1) }}{{ f(1, 2) }}
{% macro outer() %}{% macro inner(x) %}<{{ x }}>{% endmacro %}{{ inner(1) }}{% endmacro %}{{ outer() }}
{% filter upper %}a{{ n }}b{% endfilter %}
{% filter replace('a', 'b') | upper %}a{{ s }}{% endfilter %}
{% filter nope %}a{% endfilter %}
{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}
{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}
{% with n = 1 %}{{ n }}{% endwith %}{{ n }}
{% generation %}x{{ n }}{% set q = 1 %}{% endgeneration %}{{ q }}
{% for i in l %}{% generation %}{{ i }}{{ loop.index }}{% endgeneration %}{% endfor %}
{% raw %}{{ x }}{% if %}{% endraw %}|
{%- raw -%}  a  {%- endraw -%} b
{% raw %}
  a
{% endraw %}
b
{# comment #}a{#- c -#} b {#+ d +#} c
{% print 1, 'a' %}
{{ }}
{{ 1, 2 }}
{% block a %}B{{ n }}{% endblock %}
{% block a %}B{% endblock a %}
{% do l.append(1) %}
{% if s|nope %}{% endif %}
{% if no %}{{ s|nope }}{% endif %}ok
{% if t %}{{ s|nope }}{% endif %}ok
{{ s|nope if no else 'fine' }}
{% for i in l %}{{ i|nope }}{% endfor %}
{% if no %}{% for i in l %}{{ i|nope }}{% endfor %}{% endif %}
{% if no %}{{ s is nope }}{% endif %}ok
{% for loop in l %}{% endfor %}
{% for i in l %}{% set loop = 1 %}{% endfor %}
{% for i in l %}
{% if t %}
{% endfor %}
{% endif %}
{% else %}
{% nonsense %}
{% macro f(a=1, b) %}{% endmacro %}
{% macro %}{% endmacro %}
{% set 1 = 2 %}
{% set a + 1 = 2 %}
{% set a.b.c = 2 %}
{% call 1 %}{% endcall %}
{% for %}{% endfor %}
{% for i of l %}{% endfor %}
{% if %}{% endif %}
{# unclosed
{% raw %} unclosed
{{ 'unclosed
{{ 1
{% if t
{% if t %}x{% endfor %}
{% for i in l %}{% endif %}
{% set a %}x
{{ {'a': {'b': 1}} }}{{ {'a':{}}['a'] }}
{{ '}}' }}{{ "%}" }}{% if '%}' %}y{% endif %}
{{- n -}} x {{- n }} {{ n -}} y
a {%- if t -%} b {%- endif -%} c
a {%+ if t +%} b {%+ endif +%} c
{{ "a" -}}{#- -#}  b
{% set x = [1, 2] %}{% set y = x + [3] %}{{ x }}{{ y }}
{% set x = {'a': 1} %}{{ x.a }}{{ x.items()|list }}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.current }}
{% set j = joiner('; ') %}{% for i in l %}{{ j() }}{{ i }}{% endfor %}
{% set g = l|map('string') %}{{ g|list }}{{ g|list }}
{% set g = l|map('string') %}{{ g|first }}{{ g|list }}
{% set m = d|items %}{% for k, v in m %}{{ k }}{% endfor %}{% for k, v in m %}{{ k }}{% endfor %}
{% set f = s.upper %}{{ f() }}
{{ f(*l) }}
{% macro f(a, b, c) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(*l) }}{{ f(1, *[2, 3]) }}{{ f(**{'a': 1, 'b': 2, 'c': 3}) }}{{ f(1, **{'c': 3, 'b': 2}) }}
{{ '%s %s' % (1, 2) }}{{ '{}-{}'.format(*[1, 2]) }}{{ '{a}'.format(**{'a': 1}) }}
{{ l|sort(**{'reverse': true}) }}{{ [1, 2]|join(*['-']) }}
{% if n == 7 and s == 'Hello World' or x.y %}ok{% endif %}
{% if not x %}a{% endif %}{% if not (x and x.y) %}b{% endif %}
{% if n is defined and n is number and n % 2 == 1 %}odd{% endif %}
{% if 'a' in d and d['a'] == 2 %}y{% endif %}{% if 'q' not in d %}n{% endif %}
{% if users[0].tags is defined and users[0].tags|length > 0 %}y{% endif %}
{% if users|selectattr('on')|list|length == 2 %}y{% endif %}
{{ users|map(attribute='name')|join(', ') }}{{ users|selectattr('age', '>=', 30)|map(attribute='name')|list }}
{%- for u in users %}{{ '<|' + u['name'] + '|>\n' + u.age|string + '<|end|>' + '\n' }}{% endfor %}
{%- set m = users if t else [] -%}{%- for u in m[1:] -%}{{ u.name }}{%- endfor -%}
{% for u in users[::-1] %}{% set index = (users|length - 1) - loop.index0 %}{{ index }}{{ u.name }}{% endfor %}
{{ 'a' 'b' ~ 'c' 'd' }}{{ 1 if x is defined and x else 'none' }}
{{ ('a' ~ n) in ['a7'] }}{{ n in (7, 8) }}{{ not n in l }}{{ n not in l and t }}
{{ raise_exception('x') if no else 'fine' }}
{% if no %}{{ raise_exception('no') }}{% endif %}ok
a
{{ x.y }}
{% set q = l %}
{% for i in q %}

{{ i.zz.q }}{% endfor %}
"""

SYNTAX = r"""
1.
1 +
(1
[1
{1:2
{1}
'abc
a b
1 2
a.
a[
a[]
f(a b)
f(a=1, 2)
f(**a, b)
f(*a, *b)
a is
a is not
b is c is d
{{}}
a ? b
@
a!b
)
]
}
a)
(]
if
else
not
a and
a..b
a.'b'
'\x4'
'\uZZ'
1 if
a if b else
"""

BLOCKS = [
    # trim_blocks, lstrip_blocks and explicit signs over several lines
    "a\n{% if t %}\nb\n{% endif %}\nc\n",
    "a\n  {% if t %}\n  b\n  {% endif %}\nc\n\n",
    "a\n  {%+ if t %}\n  b\n  {%- endif %}\nc",
    "a\n  {%- if t -%}\n  b\n  {%- endif -%}\n  c",
    "  {{ n }}\n  {{- n }}\n {{ n -}}\n\n  x",
    "a\n  {# c #}\nb\n{# d #} e\n {#- f -#} \n g",
    "a {% if t %} b {% endif %} c\n  x {% if t %}\n y",
    "{% for i in l %}\n  - {{ i }}\n{% endfor %}\nend",
    "{%- for i in l %}\n{{- i }}\n{%- endfor %}\n",
    "\n\n{% set a = 1 %}\n\n{{ a }}\n\n",
    "{% raw %}\n {{ a }}\n{% endraw %}\n\nb",
    "x\n   {% raw %} y {% endraw %}  \nz",
    "x\n   {%- raw -%}  y  {%- endraw -%}  \nz",
    "a\r\n{% if t %}\r\nb\r{% endif %}\r\nc\r\n",
    "\t{% if t %}\tx\t{% endif %}\t",
    "a\u00a0{%- if t -%}\u00a0b{% endif %}\u2003{{- n }}",
    "\u00a0{% if t %}x{% endif %}",
    "{% if t -%}\n\n x{% endif %}{% if t %}\n\n y{% endif %}{% if t +%}\n\n z{% endif %}",
    "{{ n }}\n\n",
    "{{ n }}\n",
    "\n",
    "",
    "plain { text } with { { and %} }} #}",
    "{ {{ '{' }} }",
    "{{'a'}}{{'b'}}\n{{'c'}}",
    "{% macro f(x) -%}\n  <{{ x }}>\n{%- endmacro %}\n{{ f(1) }}\n{{- f(2) }}\n",
    "{% set a %}\n  x\n{% endset %}\n[{{ a }}]",
    "{%\n  if t\n%}x{%\nendif\n%}\n{{\n n\n}}",
    "{# multi\nline #}\n{{ x.y }}",
    "{% if t %}\n\n{{ x.y }}\n{% endif %}",
    "{% for i in l %}\n  {% if i == 1 %}\n    {{ raise_exception('at ' ~ i) }}\n  {% endif %}\n{% endfor %}",
    "a\n{{ 'x\ny' }}\n{{ x.y }}",
    "a\n\n{% if %}",
    "a\n\n{{ 1 + }}\n",
    "{{ 'a\nb\\\nc' }}",
]


def cells(block):
    """The expressions of a table, split at "|" unless it stands in quotes or brackets or before a filter's name."""
    for line in block.strip("\n").split("\n"):
        cell, depth, quote, i = "", 0, None, 0
        filters = FILTER_NAMES
        while i < len(line):
            c = line[i]
            if quote:
                cell += c
                if c == "\\":
                    i += 1
                    cell += line[i]
                elif c == quote:
                    quote = None
            elif c == "|" and depth <= 0 and not any(
                line.startswith(f, i + 1) and not (line[i + 1 + len(f):i + 2 + len(f)] or " ").isalnum() for f in filters
            ):
                yield cell
                cell = ""
            else:
                if c in "'\"":
                    quote = c
                depth += (c in "([{") - (c in ")]}")
                cell += c
            i += 1
        yield cell


FILTER_NAMES = sorted(
    """abs attr batch capitalize center count d default dictsort e escape filesizeformat first float forceescape format
    groupby indent int items join last length list lower map max min nope random reject rejectattr replace reverse
    round safe select selectattr slice sort string striptags sum title tojson trim truncate unique upper urlencode
    wordcount""".split(),
    key=len, reverse=True,
)

EXPRESSIONS = [{"template": "{{ " + c + " }}"} for c in cells(OUTPUT)]
EXPRESSIONS += [{"template": "{{ " + c + " }}"} for c in cells(ERRORS)]
EXPRESSIONS += [{"template": "a\n{{ " + c + " }}"} for c in SYNTAX.strip("\n").split("\n")]
EXPRESSIONS += [{"template": t} for t in STATEMENTS.strip("\n").split("\n")]
EXPRESSIONS += [{"template": t} for t in BLOCKS]
